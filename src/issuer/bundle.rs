//! `entente issuer bundle show|set|list|delete|count`.

use federation_specs::bundle::{Bundle, BundleError};
use federation_specs::id::TrustDomain;
use federation_specs::proto::server::bundle::batch_delete_federated_bundle_request::Mode;
use federation_specs::proto::server::bundle::{
    BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse, BatchSetFederatedBundleRequest,
    BatchSetFederatedBundleResponse, CountBundlesRequest, CountBundlesResponse, GetBundleRequest,
    GetFederatedBundleRequest, ListFederatedBundlesRequest, ListFederatedBundlesResponse,
};
use federation_specs::proto::types;
use federation_specs::{bundle_json, convert};

use crate::connect::{self, Api, IssuerSocket};
use crate::failure::{Failure, error_chain};
use crate::identifiers;
use crate::input;
use crate::notation::{counted, quote};
use crate::output::{self, Format, OutputArguments, Report};
use crate::pem;
use crate::standard_error;

const BUNDLE: &str = "spire.api.types.Bundle";
const PACKAGE: &str = "spire.api.server.bundle.v1";
/// Bundles asked for at a time.
const PAGE: i32 = 100;
/// The line above and below a trust domain's name.
const RULE: &str = "****************************************";

/// The commands of `entente issuer bundle`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Count bundles
    Count(Count),
    /// Delete a federated bundle
    Delete(Delete),
    /// List federated bundles
    List(List),
    /// Store a federated bundle, replacing the one held
    Set(Set),
    /// Print the issuer's own bundle
    Show(Show),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Count {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    socket: IssuerSocket,
    /// The trust domain
    #[arg(long, value_name = "TRUST_DOMAIN")]
    id: Option<String>,
    /// With entries that federate with it: restrict (refuse), dissociate (keep them) or delete (delete them)
    #[arg(long, value_name = "MODE", default_value = "restrict")]
    mode: String,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    socket: IssuerSocket,
    /// Only this trust domain's
    #[arg(long, value_name = "TRUST_DOMAIN")]
    id: Option<String>,
    /// pem or spiffe, for pretty output
    #[arg(long, value_name = "FORMAT", default_value = "pem")]
    format: String,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    #[command(flatten)]
    socket: IssuerSocket,
    /// The trust domain
    #[arg(long, value_name = "TRUST_DOMAIN")]
    id: Option<String>,
    /// The file; standard input unless given
    #[arg(long, value_name = "FILE")]
    path: Option<String>,
    /// What the file holds: pem certificates or a spiffe bundle
    #[arg(long, value_name = "FORMAT", default_value = "pem")]
    format: String,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    socket: IssuerSocket,
    /// pem or spiffe, for pretty output
    #[arg(long, value_name = "FORMAT", default_value = "pem")]
    format: String,
    #[command(flatten)]
    output: OutputArguments,
}

/// How a bundle is written in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Certificates, hence X.509 authorities only.
    Pem,
    /// The SPIFFE bundle document.
    Spiffe,
}

impl Encoding {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        match text.to_ascii_lowercase().as_str() {
            "pem" => Ok(Self::Pem),
            "spiffe" => Ok(Self::Spiffe),
            _ => Err(Failure::new(format!("invalid format: {}", quote(text)))),
        }
    }
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Count(arguments) => count(&arguments).await,
        Command::Delete(arguments) => delete(&arguments).await,
        Command::List(arguments) => list(&arguments).await,
        Command::Set(arguments) => set(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
    }
}

async fn count(arguments: &Count) -> Result<(), Failure> {
    let api = arguments.socket.connect().await?;
    let count = connect::bundles(&api).count_bundles(CountBundlesRequest {}).await?.into_inner();
    output::print(arguments.output.format, &format!("{PACKAGE}.CountBundlesResponse"), &count, count_text)
}

fn count_text(count: &CountBundlesResponse) -> String {
    format!("{}\n", counted(count.count, "bundle", "bundles"))
}

async fn show(arguments: &Show) -> Result<(), Failure> {
    let encoding = Encoding::parse(&arguments.format)?;
    let api = arguments.socket.connect().await?;
    let bundle = connect::bundles(&api).get_bundle(GetBundleRequest { output_mask: None }).await?.into_inner();
    print_bundle(arguments.output.format, encoding, &bundle)
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let encoding = Encoding::parse(&arguments.format)?;
    let id = arguments.id.as_deref().filter(|id| !id.is_empty()).map(identifiers::trust_domain).transpose()?;
    let api = arguments.socket.connect().await?;
    if let Some(trust_domain) = id {
        let request = GetFederatedBundleRequest { trust_domain: trust_domain.to_string(), output_mask: None };
        let bundle = connect::bundles(&api).get_federated_bundle(request).await?.into_inner();
        return print_bundle(arguments.output.format, encoding, &bundle);
    }
    let bundles = list_all(&api).await?;
    match arguments.output.format {
        Format::Json => {
            let response = ListFederatedBundlesResponse { bundles, next_page_token: String::new() };
            output::to_stdout(&output::json_line(&format!("{PACKAGE}.ListFederatedBundlesResponse"), &response)?)
        }
        Format::Pretty => output::to_stdout(&list_text(encoding, &bundles)?),
    }
}

async fn list_all(api: &Api) -> Result<Vec<types::Bundle>, Failure> {
    let mut client = connect::bundles(api);
    let mut request = ListFederatedBundlesRequest { page_size: PAGE, ..Default::default() };
    let mut bundles = Vec::new();
    loop {
        let mut page = client.list_federated_bundles(request.clone()).await?.into_inner();
        bundles.append(&mut page.bundles);
        if page.next_page_token.is_empty() {
            return Ok(bundles);
        }
        request.page_token = page.next_page_token;
    }
}

fn list_text(encoding: Encoding, bundles: &[types::Bundle]) -> Result<String, Failure> {
    let blocks = bundles.iter().map(|bundle| {
        let text = bundle_text(encoding, bundle)?;
        Ok(format!("{RULE}\n* {}\n{RULE}\n{text}", bundle.trust_domain))
    });
    Ok(blocks.collect::<Result<Vec<_>, Failure>>()?.join("\n"))
}

fn print_bundle(format: Format, encoding: Encoding, bundle: &types::Bundle) -> Result<(), Failure> {
    match format {
        Format::Json => output::to_stdout(&output::json_line(BUNDLE, bundle)?),
        Format::Pretty => output::to_stdout(&bundle_text(encoding, bundle)?),
    }
}

/// A bundle in one of its encodings, with its final newline.
fn bundle_text(encoding: Encoding, bundle: &types::Bundle) -> Result<String, Failure> {
    match encoding {
        Encoding::Pem => {
            Ok(pem::certificates(bundle.x509_authorities.iter().map(|authority| authority.asn1.as_slice())))
        }
        Encoding::Spiffe => {
            let parsed = convert::bundle_from_proto(bundle).map_err(|error| {
                Failure::chain(&error)
                    .context(&format!("the bundle of {} cannot be shown", quote(&bundle.trust_domain)))
            })?;
            let document = bundle_json::encode(&parsed);
            let mut text = String::from_utf8_lossy(&document).into_owned();
            if !text.ends_with('\n') {
                text.push('\n');
            }
            Ok(text)
        }
    }
}

/// Reads a bundle of a trust domain from a file's bytes.
pub(crate) fn parse(trust_domain: &TrustDomain, encoding: Encoding, bytes: &[u8]) -> Result<Bundle, Failure> {
    let unable = |reason: String| Failure::new(format!("unable to parse bundle data: {reason}"));
    match encoding {
        Encoding::Pem => Bundle::parse_pem_roots(trust_domain.clone(), bytes).map_err(|error| match error {
            BundleError::NoCertificate => unable("no PEM blocks".to_owned()),
            other => unable(error_chain(&other)),
        }),
        Encoding::Spiffe => {
            let parsed = bundle_json::parse(trust_domain, bytes).map_err(|error| unable(error_chain(&error)))?;
            for skipped in &parsed.skipped {
                standard_error::to_stderr(&format!("Warning: not used of the bundle of {trust_domain}: {skipped}\n"));
            }
            Ok(parsed.bundle)
        }
    }
}

async fn set(arguments: &Set) -> Result<(), Failure> {
    let id = arguments.id.as_deref().filter(|id| !id.is_empty()).ok_or_else(|| Failure::new("id flag is required"))?;
    let encoding = Encoding::parse(&arguments.format)?;
    let trust_domain = identifiers::trust_domain(id)?;
    let bytes = input::bytes(arguments.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("-"))
        .map_err(|failure| failure.context("unable to load bundle data"))?;
    let bundle = parse(&trust_domain, encoding, &bytes)?;
    let api = arguments.socket.connect().await?;
    let request = BatchSetFederatedBundleRequest { bundle: vec![convert::bundle_to_proto(&bundle)], output_mask: None };
    let response = connect::bundles(&api).batch_set_federated_bundle(request).await;
    let response =
        response.map_err(|status| Failure::from(status).context("failed to set federated bundle"))?.into_inner();
    match arguments.output.format {
        Format::Json => {
            output::to_stdout(&output::json_line(&format!("{PACKAGE}.BatchSetFederatedBundleResponse"), &response)?)
        }
        Format::Pretty => set_report(&response).finish(),
    }
}

fn set_report(response: &BatchSetFederatedBundleResponse) -> Report {
    let status = response.results.first().and_then(|result| result.status.clone()).unwrap_or_default();
    match status.code {
        0 => Report::success("bundle set.\n"),
        _ => Report::failed(format!("failed to set federated bundle: {}", status.message)),
    }
}

async fn delete(arguments: &Delete) -> Result<(), Failure> {
    let id = arguments.id.as_deref().filter(|id| !id.is_empty()).ok_or_else(|| Failure::new("id is required"))?;
    let mode = match arguments.mode.as_str() {
        "restrict" => Mode::Restrict,
        "dissociate" => Mode::Dissociate,
        "delete" => Mode::Delete,
        other => return Err(Failure::new(format!("unsupported mode {}", quote(other)))),
    };
    let api = arguments.socket.connect().await?;
    let request = BatchDeleteFederatedBundleRequest { trust_domains: vec![id.to_owned()], mode: mode.into() };
    let response = connect::bundles(&api).batch_delete_federated_bundle(request).await;
    let response =
        response.map_err(|status| Failure::from(status).context("failed to delete federated bundle"))?.into_inner();
    match arguments.output.format {
        Format::Json => {
            output::to_stdout(&output::json_line(&format!("{PACKAGE}.BatchDeleteFederatedBundleResponse"), &response)?)
        }
        Format::Pretty => delete_report(&response).finish(),
    }
}

fn delete_report(response: &BatchDeleteFederatedBundleResponse) -> Report {
    let Some(result) = response.results.first() else {
        return Report::failed("the issuer's answer holds no result");
    };
    let status = result.status.clone().unwrap_or_default();
    match status.code {
        0 => Report::success("bundle deleted.\n"),
        _ => {
            let trust_domain = quote(&result.trust_domain);
            Report::failed(format!("failed to delete federated bundle {trust_domain}: {}", status.message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn the_own_bundle_is_spires_in_every_format() {
        let transcripts = Transcripts::of("bundle-show");
        let bundle: types::Bundle = transcripts.message(BUNDLE, "bundle show -output json");
        assert_eq!(output::json_line(BUNDLE, &bundle).unwrap(), transcripts.stdout("bundle show -output json"));
        assert_eq!(bundle_text(Encoding::Pem, &bundle).unwrap(), transcripts.stdout("bundle show"));
        assert_eq!(bundle_text(Encoding::Spiffe, &bundle).unwrap(), transcripts.stdout("bundle show -format spiffe"));
        let expected = transcripts.stderr("bundle show -format xyz");
        assert_eq!(format!("Error: {}\n", Encoding::parse("xyz").unwrap_err().text()), expected);
    }

    #[test]
    fn federated_bundles_are_listed_as_spires() {
        let transcripts = Transcripts::of("bundle-list");
        let name = format!("{PACKAGE}.ListFederatedBundlesResponse");
        let response: ListFederatedBundlesResponse = transcripts.message(&name, "bundle list -output json");
        assert_eq!(output::json_line(&name, &response).unwrap(), transcripts.stdout("bundle list -output json"));
        assert_eq!(list_text(Encoding::Pem, &response.bundles).unwrap(), transcripts.stdout("bundle list"));
        assert_eq!(
            list_text(Encoding::Spiffe, &response.bundles).unwrap(),
            transcripts.stdout("bundle list -format spiffe")
        );
        let one = list_text(Encoding::Pem, &response.bundles).unwrap();
        let twice = [response.bundles.clone(), response.bundles].concat();
        assert_eq!(list_text(Encoding::Pem, &twice).unwrap(), format!("{one}\n{one}"));
    }

    #[test]
    fn what_bundle_list_printed_can_be_set() {
        let transcripts = Transcripts::of("bundle-list");
        let trust_domain = TrustDomain::parse("onprem.example").unwrap();
        let pem = transcripts.stdout("bundle list -id onprem.example");
        let parsed = parse(&trust_domain, Encoding::Pem, pem.as_bytes()).unwrap();
        assert_eq!(parsed.x509_authorities().len(), 1);
        let nothing = parse(&trust_domain, Encoding::Pem, b"{}").unwrap_err();
        assert_eq!(nothing.text(), "unable to parse bundle data: no PEM blocks");
        assert!(
            parse(&trust_domain, Encoding::Spiffe, b"{}")
                .unwrap_err()
                .text()
                .starts_with("unable to parse bundle data: ")
        );
    }

    #[test]
    fn deletions_and_sets_read_as_spires() {
        let transcripts = Transcripts::of("bundle-delete");
        let name = format!("{PACKAGE}.BatchDeleteFederatedBundleResponse");
        let command = "bundle delete -id onprem.example";
        for (index, json) in transcripts.all(&format!("{command} -output json")).into_iter().enumerate() {
            let response: BatchDeleteFederatedBundleResponse = Transcripts::decode(&name, &json.stdout);
            assert_eq!(output::json_line(&name, &response).unwrap(), json.stdout);
            let expected = &transcripts.all(command)[index].stderr;
            assert_eq!(format!("Error: {}\n", delete_report(&response).failure.unwrap()), *expected);
        }
        let transcripts = Transcripts::of("bundle-set");
        let name = format!("{PACKAGE}.BatchSetFederatedBundleResponse");
        for command in
            ["bundle set -id spiffe://onprem.example -path onprem.pem", "bundle set -id cloud.example -path onprem.pem"]
        {
            let expected = transcripts.find(command).unwrap();
            let response: BatchSetFederatedBundleResponse =
                transcripts.message(&name, &format!("{command} -output json"));
            let report = set_report(&response);
            assert_eq!(report.stdout, expected.stdout);
            assert_eq!(report.failure.map(|text| format!("Error: {text}\n")).unwrap_or_default(), expected.stderr);
        }
    }
}
