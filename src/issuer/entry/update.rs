//! `entente issuer entry update`.

use federation_specs::proto::server::entry::{BatchUpdateEntryRequest, BatchUpdateEntryResponse, GetEntryRequest};
use federation_specs::proto::types::{Entry, entry::AdditionalAttributes};

use super::block::block;
use super::create::{EntryFlags, given, refused};
use super::data_file;
use crate::connect::{self, Api, IssuerSocket};
use crate::failure::Failure;
use crate::identifiers;
use crate::output::{self, Format, OutputArguments, Report};

const RESPONSE: &str = "spire.api.server.entry.v1.BatchUpdateEntryResponse";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    entry: EntryFlags,
    #[command(flatten)]
    output: OutputArguments,
}

impl Arguments {
    fn entries(&self) -> Result<Vec<Entry>, Failure> {
        let flags = &self.entry;
        if let Some(path) = given(flags.data.as_deref()) {
            return data_file::entries(path);
        }
        if given(flags.entry_id.as_deref()).is_none() {
            return Err(Failure::new("entry ID is required"));
        }
        if flags.selector.is_empty() {
            return Err(Failure::new("at least one selector is required"));
        }
        let parent_id = given(flags.parent_id.as_deref()).ok_or_else(|| Failure::new("a parent ID is required"))?;
        let spiffe_id = given(flags.spiffe_id.as_deref()).ok_or_else(|| Failure::new("a SPIFFE ID is required"))?;
        flags.check_numbers()?;
        Ok(vec![flags.entry(identifiers::spiffe_id(parent_id)?, identifiers::spiffe_id(spiffe_id)?)?])
    }

    fn names_attributes(&self) -> bool {
        given(self.entry.data.as_deref()).is_none()
            && (self.entry.disable_x509_svid_prefetch.is_some() || self.entry.jwt_svid_include_jti.is_some())
    }
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut entries = arguments.entries()?;
    let api = arguments.socket.connect().await?;
    if arguments.names_attributes() {
        for entry in &mut entries {
            keep_attributes(&api, entry).await?;
        }
    }
    let request = BatchUpdateEntryRequest { entries: entries.clone(), input_mask: None, output_mask: None };
    let mut response = connect::entries(&api).batch_update_entry(request).await?.into_inner();
    fill_in(&mut response, &entries);
    match arguments.output.format {
        Format::Json => output::to_stdout(&output::json_line(RESPONSE, &response)?),
        Format::Pretty => report(&response).finish(),
    }
}

/// A flag can set an attribute; those not named keep what the entry has. Like SPIRE's command, it cannot unset one.
async fn keep_attributes(api: &Api, entry: &mut Entry) -> Result<(), Failure> {
    let request = GetEntryRequest { id: entry.id.clone(), output_mask: None };
    let stored = connect::entries(api).get_entry(request).await.map_err(|status| {
        Failure::from(status).context("failed to fetch existing entry to merge additional attributes")
    })?;
    entry.additional_attributes = merged(entry.additional_attributes, stored.into_inner().additional_attributes);
    Ok(())
}

fn merged(asked: Option<AdditionalAttributes>, stored: Option<AdditionalAttributes>) -> Option<AdditionalAttributes> {
    let (asked, stored) = (asked.unwrap_or_default(), stored.unwrap_or_default());
    let attributes = AdditionalAttributes {
        disable_x509_svid_prefetch: asked.disable_x509_svid_prefetch || stored.disable_x509_svid_prefetch,
        jwt_svid_include_jti: asked.jwt_svid_include_jti || stored.jwt_svid_include_jti,
    };
    (attributes != AdditionalAttributes::default()).then_some(attributes)
}

fn fill_in(response: &mut BatchUpdateEntryResponse, asked: &[Entry]) {
    for (result, asked) in response.results.iter_mut().zip(asked) {
        if result.status.as_ref().is_some_and(|status| status.code != 0) {
            result.entry = Some(asked.clone());
        }
    }
}

fn report(response: &BatchUpdateEntryResponse) -> Report {
    let mut report = Report::default();
    for result in &response.results {
        let status = result.status.clone().unwrap_or_default();
        let text = result.entry.as_ref().map(block).unwrap_or_default();
        if status.code == 0 {
            report.stdout.push_str(&text);
        } else {
            report.stderr.push_str(&refused("update", status.code, &status.message, &text));
            report.failure = Some("failed to update one or more entries".to_owned());
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn json_is_spires_and_pretty_text_follows_from_it() {
        let transcripts = Transcripts::of("entry-update");
        let mut pairs = 0;
        for transcript in transcripts.starting("entry update").iter().filter(|t| t.stdout.starts_with('{')) {
            let response: BatchUpdateEntryResponse = Transcripts::decode(RESPONSE, &transcript.stdout);
            assert_eq!(output::json_line(RESPONSE, &response).unwrap(), transcript.stdout);
            let Some(pretty) = transcripts.find(transcript.command.trim_end_matches(" -output json")) else { continue };
            let mut response = response;
            for entry in response.results.iter_mut().filter_map(|result| result.entry.as_mut()) {
                // The JSON run was the second update.
                entry.revision_number = entry.revision_number.min(1);
            }
            let report = report(&response);
            assert_eq!(report.stdout, pretty.stdout);
            let error = report.failure.map(|text| format!("Error: {text}\n")).unwrap_or_default();
            assert_eq!(report.stderr + &error, pretty.stderr);
            pairs += 1;
        }
        assert!(pairs >= 2);
    }

    #[test]
    fn attributes_can_be_set_but_not_unset() {
        let both = AdditionalAttributes { disable_x509_svid_prefetch: true, jwt_svid_include_jti: true };
        let jti = AdditionalAttributes { disable_x509_svid_prefetch: false, jwt_svid_include_jti: true };
        let prefetch = AdditionalAttributes { disable_x509_svid_prefetch: true, jwt_svid_include_jti: false };
        assert_eq!(merged(None, Some(both)), Some(both));
        assert_eq!(merged(Some(jti), Some(prefetch)), Some(both));
        assert_eq!(merged(None, None), None);
    }
}
