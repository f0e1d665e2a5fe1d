//! `entente issuer entry create`, and the flags that describe an entry.

use federation_specs::proto::server::entry::{BatchCreateEntryRequest, BatchCreateEntryResponse};
use federation_specs::proto::types::{Entry, Spiffeid, entry::AdditionalAttributes};

use super::block::block;
use super::data_file;
use crate::connect::{self, IssuerSocket};
use crate::failure::{Failure, code_name};
use crate::identifiers;
use crate::notation::quote;
use crate::output::{self, Format, OutputArguments, Report};

const RESPONSE: &str = "spire.api.server.entry.v1.BatchCreateEntryResponse";
/// Path of the issuer's own SPIFFE ID, the parent of entries for nodes.
const SERVER_PATH: &str = "/spire/server";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    entry: EntryFlags,
    /// The entry is for nodes: its parent is the issuer
    #[arg(long)]
    node: bool,
    #[command(flatten)]
    output: OutputArguments,
}

/// The flags that describe one entry, for `create` and `update`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct EntryFlags {
    /// The entry's own ID
    #[arg(long = "entryID", value_name = "ID")]
    pub(super) entry_id: Option<String>,
    /// SPIFFE ID of the agent (or node entry) that serves this entry
    #[arg(long = "parentID", value_name = "ID")]
    pub(super) parent_id: Option<String>,
    /// SPIFFE ID the workload gets
    #[arg(long = "spiffeID", value_name = "ID")]
    pub(super) spiffe_id: Option<String>,
    /// A selector the workload must match (type:value); may be repeated, all must match
    #[arg(long, value_name = "SELECTOR")]
    pub(super) selector: Vec<String>,
    /// Lifetime of X509-SVIDs, in seconds; 0 for the issuer's default
    #[arg(long = "x509SVIDTTL", value_name = "SECONDS", default_value_t = 0)]
    pub(super) x509_svid_ttl: i32,
    /// Lifetime of JWT-SVIDs, in seconds; 0 for the issuer's default
    #[arg(long = "jwtSVIDTTL", value_name = "SECONDS", default_value_t = 0)]
    pub(super) jwt_svid_ttl: i32,
    /// A trust domain whose bundle the workload gets too; may be repeated
    #[arg(long = "federatesWith", value_name = "TRUST_DOMAIN")]
    pub(super) federates_with: Vec<String>,
    /// The workload may call the issuer's admin API
    #[arg(long)]
    pub(super) admin: bool,
    /// The workload is an issuer under this one
    #[arg(long)]
    pub(super) downstream: bool,
    /// The SVID goes to a secrets store instead of the Workload API
    #[arg(long = "storeSVID")]
    pub(super) store_svid: bool,
    /// When the entry ends, in seconds since 1970; 0 for never
    #[arg(long = "entryExpiry", value_name = "TIME", default_value_t = 0)]
    pub(super) entry_expiry: i64,
    /// A DNS name for the certificate; may be repeated, the first is also its common name
    #[arg(long, value_name = "NAME")]
    pub(super) dns: Vec<String>,
    /// A word that tells the workload which SVID is for what
    #[arg(long, value_name = "HINT")]
    pub(super) hint: Option<String>,
    /// Agents sign this entry's X509-SVID only when asked for it
    #[arg(long = "disableX509SVIDPrefetch", value_name = "BOOL")]
    pub(super) disable_x509_svid_prefetch: Option<bool>,
    /// JWT-SVIDs carry a jti claim
    #[arg(long = "jwtSVIDIncludeJTI", value_name = "BOOL")]
    pub(super) jwt_svid_include_jti: Option<bool>,
    /// Read the entries from a JSON file, or from standard input with -; the other entry flags then do not count
    #[arg(long, value_name = "FILE")]
    pub(super) data: Option<String>,
}

pub(super) fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

impl EntryFlags {
    /// The lists and numbers no entry can do without.
    pub(super) fn check_numbers(&self) -> Result<(), Failure> {
        if self.x509_svid_ttl < 0 {
            return Err(Failure::new("a positive x509-SVID TTL is required"));
        }
        if self.jwt_svid_ttl < 0 {
            return Err(Failure::new("a positive JWT-SVID TTL is required"));
        }
        Ok(())
    }

    /// The entry as the API carries it.
    pub(super) fn entry(&self, parent_id: Spiffeid, spiffe_id: Spiffeid) -> Result<Entry, Failure> {
        let selectors = self.selector.iter().map(|text| identifiers::selector(text)).collect::<Result<_, _>>()?;
        Ok(Entry {
            id: self.entry_id.clone().unwrap_or_default(),
            spiffe_id: Some(spiffe_id),
            parent_id: Some(parent_id),
            selectors,
            x509_svid_ttl: self.x509_svid_ttl,
            jwt_svid_ttl: self.jwt_svid_ttl,
            federates_with: self.federates_with.clone(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.entry_expiry,
            dns_names: self.dns.clone(),
            store_svid: self.store_svid,
            hint: self.hint.clone().unwrap_or_default(),
            additional_attributes: self.attributes(),
            ..Entry::default()
        })
    }

    fn attributes(&self) -> Option<AdditionalAttributes> {
        let attributes = AdditionalAttributes {
            disable_x509_svid_prefetch: self.disable_x509_svid_prefetch.unwrap_or(false),
            jwt_svid_include_jti: self.jwt_svid_include_jti.unwrap_or(false),
        };
        (attributes != AdditionalAttributes::default()).then_some(attributes)
    }
}

impl Arguments {
    fn entries(&self) -> Result<Vec<Entry>, Failure> {
        let flags = &self.entry;
        if let Some(path) = given(flags.data.as_deref()) {
            return data_file::entries(path);
        }
        if flags.selector.is_empty() {
            return Err(Failure::new("at least one selector is required"));
        }
        let parent_id = given(flags.parent_id.as_deref());
        if parent_id.is_none() && !self.node {
            return Err(Failure::new("a parent ID is required if the node flag is not set"));
        }
        let spiffe_id = given(flags.spiffe_id.as_deref()).ok_or_else(|| Failure::new("a SPIFFE ID is required"))?;
        flags.check_numbers()?;
        if self.node && !flags.federates_with.is_empty() {
            return Err(Failure::new("node entries can not federate"));
        }
        let spiffe_id = identifiers::spiffe_id(spiffe_id)?;
        let parent_id = match parent_id.filter(|_| !self.node) {
            Some(parent_id) => identifiers::spiffe_id(parent_id)?,
            None => Spiffeid { trust_domain: spiffe_id.trust_domain.clone(), path: SERVER_PATH.to_owned() },
        };
        Ok(vec![flags.entry(parent_id, spiffe_id)?])
    }
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let entries = arguments.entries()?;
    let api = arguments.socket.connect().await?;
    let request = BatchCreateEntryRequest { entries: entries.clone(), output_mask: None };
    let mut response = connect::entries(&api).batch_create_entry(request).await?.into_inner();
    fill_in(&mut response, &entries);
    match arguments.output.format {
        Format::Json => output::to_stdout(&output::json_line(RESPONSE, &response)?),
        Format::Pretty => report(&response).finish(),
    }
}

/// A refused entry is shown as it was asked for.
fn fill_in(response: &mut BatchCreateEntryResponse, asked: &[Entry]) {
    for (result, asked) in response.results.iter_mut().zip(asked) {
        if result.status.as_ref().is_some_and(|status| status.code != 0) {
            result.entry = Some(asked.clone());
        }
    }
}

fn report(response: &BatchCreateEntryResponse) -> Report {
    let mut report = Report::default();
    for result in &response.results {
        let status = result.status.clone().unwrap_or_default();
        let text = result.entry.as_ref().map(block).unwrap_or_default();
        if status.code == 0 {
            report.stdout.push_str(&text);
        } else {
            report.stderr.push_str(&refused("create", status.code, &status.message, &text));
            report.failure = Some("failed to create one or more entries".to_owned());
        }
    }
    report
}

/// The lines of an entry that could not be created or updated.
pub(super) fn refused(verb: &str, code: i32, message: &str, block: &str) -> String {
    let code = code_name(code.into());
    format!("Failed to {verb} the following entry (code: {code}, msg: {}):\n{block}", quote(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    fn flags(selector: &[&str], parent_id: &str, spiffe_id: &str) -> EntryFlags {
        EntryFlags {
            selector: selector.iter().map(|text| (*text).to_owned()).collect(),
            parent_id: Some(parent_id.to_owned()),
            spiffe_id: Some(spiffe_id.to_owned()),
            ..EntryFlags::default()
        }
    }

    fn entries(entry: EntryFlags, node: bool) -> Result<Vec<Entry>, String> {
        use clap::Parser;
        #[derive(Parser)]
        struct Cli {
            #[command(flatten)]
            arguments: Arguments,
        }
        let mut arguments = Cli::parse_from(["create"]).arguments;
        arguments.entry = entry;
        arguments.node = node;
        arguments.entries().map_err(|failure| failure.text().to_owned())
    }

    #[test]
    fn json_is_spires_and_pretty_text_follows_from_it() {
        for transcript in
            Transcripts::of("entry-create").starting("entry create").iter().filter(|t| t.stdout.starts_with('{'))
        {
            let response: BatchCreateEntryResponse = Transcripts::decode(RESPONSE, &transcript.stdout);
            assert_eq!(output::json_line(RESPONSE, &response).unwrap(), transcript.stdout);
        }
    }

    #[test]
    fn refused_entries_are_told_on_stderr() {
        let transcripts = Transcripts::of("entry-create");
        let agent = "spiffe://cloud.example/spire/agent/x509pop/65d6b2c6e8466d227dc9ac8e32bb47c8ed0c8517";
        let command =
            format!("entry create -parentID {agent} -spiffeID spiffe://cloud.example/workload -selector unix:uid:0");
        let response: BatchCreateEntryResponse = transcripts.message(RESPONSE, &format!("{command} -output json"));
        let report = report(&response);
        let expected = transcripts.find(&command).unwrap();
        assert_eq!(report.stdout, expected.stdout);
        assert_eq!(format!("{}Error: {}\n", report.stderr, report.failure.unwrap()), expected.stderr);
    }

    #[test]
    fn refused_entries_are_filled_in_from_the_request() {
        let transcripts = Transcripts::of("entry-create");
        let agent = "spiffe://cloud.example/spire/agent/x509pop/65d6b2c6e8466d227dc9ac8e32bb47c8ed0c8517";
        let asked = entries(flags(&["unix:uid:0"], agent, "spiffe://cloud.example/workload"), false).unwrap();
        let command = format!(
            "entry create -parentID {agent} -spiffeID spiffe://cloud.example/workload -selector unix:uid:0 -output json"
        );
        let expected = transcripts.stdout(&command);
        let mut response: BatchCreateEntryResponse = Transcripts::decode(RESPONSE, expected);
        response.results[0].entry = Some(Entry { id: "the existing one".to_owned(), ..Entry::default() });
        fill_in(&mut response, &asked);
        assert_eq!(output::json_line(RESPONSE, &response).unwrap(), expected);
    }

    #[test]
    fn created_entries_read_as_spires() {
        let transcripts = Transcripts::of("entry-create");
        let mut entry = flags(
            &["unix:uid:0"],
            "spiffe://cloud.example/spire/agent/x509pop/65d6b2c6e8466d227dc9ac8e32bb47c8ed0c8517",
            "spiffe://cloud.example/jti",
        );
        entry.entry_id = Some("2f8cf977-990f-4595-9afa-9ea07910ab96".to_owned());
        entry.jwt_svid_include_jti = Some(true);
        entry.disable_x509_svid_prefetch = Some(true);
        entry.hint = Some("main".to_owned());
        let created = entries(entry, false).unwrap();
        let expected = transcripts.starting("entry create").into_iter().find(|t| t.command.contains("/jti")).unwrap();
        assert_eq!(block(&created[0]), expected.stdout);
    }

    #[test]
    fn what_is_missing_is_named() {
        let agent = "spiffe://cloud.example/spire/agent/x";
        let id = "spiffe://cloud.example/x";
        let cases = [
            (flags(&[], agent, id), false, "at least one selector is required"),
            (flags(&["unix:uid:0"], "", id), false, "a parent ID is required if the node flag is not set"),
            (flags(&["unix:uid:0"], agent, ""), false, "a SPIFFE ID is required"),
            (flags(&["unixuid"], agent, id), false, "selector \"unixuid\" must be formatted as type:value"),
            (flags(&["unix:uid:0"], agent, "cloud.example/x"), false, "scheme is missing or invalid"),
            (
                EntryFlags { x509_svid_ttl: -1, ..flags(&["unix:uid:0"], agent, id) },
                false,
                "a positive x509-SVID TTL is required",
            ),
            (
                EntryFlags { federates_with: vec!["a.example".to_owned()], ..flags(&["unix:uid:0"], "", id) },
                true,
                "node entries can not federate",
            ),
        ];
        for (flags, node, text) in cases {
            assert_eq!(entries(flags, node).unwrap_err(), text);
        }
    }

    #[test]
    fn the_parent_of_a_node_entry_is_the_issuer() {
        let entry = entries(flags(&["x509pop:san:rack:r1/slot2"], "", "spiffe://cloud.example/rack1"), true).unwrap();
        assert_eq!(identifiers::id_text(entry[0].parent_id.as_ref()), "spiffe://cloud.example/spire/server");
        assert_eq!(entry[0].additional_attributes, None);
    }
}
