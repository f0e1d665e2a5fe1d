//! `entente issuer federation create|list|show|update|delete|refresh`.

mod data_file;

use federation_specs::convert;
use federation_specs::proto::server::trustdomain::{
    BatchCreateFederationRelationshipRequest, BatchCreateFederationRelationshipResponse,
    BatchDeleteFederationRelationshipRequest, BatchDeleteFederationRelationshipResponse,
    BatchUpdateFederationRelationshipRequest, BatchUpdateFederationRelationshipResponse,
    GetFederationRelationshipRequest, ListFederationRelationshipsRequest, ListFederationRelationshipsResponse,
    RefreshBundleRequest,
};
use federation_specs::proto::types::{
    FederationRelationship, HttpsWebProfile, HttpsspiffeProfile, Status, federation_relationship::BundleEndpointProfile,
};
use tonic::Code;

use super::bundle::{self, Encoding};
use crate::connect::{self, IssuerSocket};
use crate::failure::{Failure, code_name};
use crate::identifiers;
use crate::input;
use crate::notation::{counted, quote};
use crate::output::{self, Format, OutputArguments, Report};

const RELATIONSHIP: &str = "spire.api.types.FederationRelationship";
const PACKAGE: &str = "spire.api.server.trustdomain.v1";
/// Relationships asked for at a time.
const PAGE: i32 = 500;

/// The commands of `entente issuer federation`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create relationships
    Create(Change),
    /// Delete a relationship
    Delete(One),
    /// List relationships
    List(List),
    /// Have a partner's bundle fetched now
    Refresh(One),
    /// One relationship
    Show(Show),
    /// Replace relationships
    Update(Change),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Change {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    relationship: RelationshipFlags,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Clone, Default, clap::Args)]
struct RelationshipFlags {
    /// The partner
    #[arg(long = "trustDomain", value_name = "TRUST_DOMAIN")]
    trust_domain: Option<String>,
    /// Where the partner serves its bundle, an https URL
    #[arg(long = "bundleEndpointURL", value_name = "URL")]
    bundle_endpoint_url: Option<String>,
    /// How the endpoint proves who it is: https_web or https_spiffe
    #[arg(long = "bundleEndpointProfile", value_name = "PROFILE")]
    bundle_endpoint_profile: Option<String>,
    /// The endpoint's SPIFFE ID, for https_spiffe
    #[arg(long = "endpointSpiffeID", value_name = "ID")]
    endpoint_spiffe_id: Option<String>,
    /// The partner's bundle to start with
    #[arg(long = "trustDomainBundlePath", value_name = "FILE")]
    trust_domain_bundle_path: Option<String>,
    /// What that file holds: pem certificates or a spiffe bundle
    #[arg(long = "trustDomainBundleFormat", value_name = "FORMAT", default_value = "pem")]
    trust_domain_bundle_format: String,
    /// Read the relationships from a JSON file, or from standard input with -; excludes the other flags
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    socket: IssuerSocket,
    /// The partner
    #[arg(long, value_name = "TRUST_DOMAIN")]
    id: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    socket: IssuerSocket,
    /// The partner
    #[arg(long = "trustDomain", value_name = "TRUST_DOMAIN")]
    trust_domain: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

impl RelationshipFlags {
    fn relationships(&self) -> Result<Vec<FederationRelationship>, Failure> {
        let named = [
            self.trust_domain.as_deref(),
            self.bundle_endpoint_url.as_deref(),
            self.bundle_endpoint_profile.as_deref(),
            self.endpoint_spiffe_id.as_deref(),
            self.trust_domain_bundle_path.as_deref(),
        ];
        if let Some(path) = given(self.data.as_deref()) {
            if named.into_iter().any(|flag| given(flag).is_some()) {
                return Err(Failure::new(
                    "cannot use other flags to specify relationship fields when the 'data' flag is set",
                ));
            }
            return data_file::relationships(&input::read(path)?);
        }
        let trust_domain =
            given(self.trust_domain.as_deref()).ok_or_else(|| Failure::new("trust domain is required"))?;
        let url = given(self.bundle_endpoint_url.as_deref())
            .ok_or_else(|| Failure::new("bundle endpoint URL is required"))?;
        let profile = given(self.bundle_endpoint_profile.as_deref())
            .ok_or_else(|| Failure::new("bundle endpoint profile is required"))?;
        let profile = self::profile(profile, self.endpoint_spiffe_id.as_deref())?;
        let trust_domain_bundle = match given(self.trust_domain_bundle_path.as_deref()) {
            None => None,
            Some(path) => {
                let encoding = Encoding::parse(&self.trust_domain_bundle_format)?;
                let owner = bundle_owner(trust_domain, &profile)?;
                Some(convert::bundle_to_proto(&bundle::parse(&owner, encoding, &input::bytes(path)?)?))
            }
        };
        Ok(vec![FederationRelationship {
            trust_domain: trust_domain.to_owned(),
            bundle_endpoint_url: url.to_owned(),
            bundle_endpoint_profile: Some(profile),
            trust_domain_bundle,
        }])
    }
}

/// An endpoint profile by name.
fn profile(name: &str, endpoint_spiffe_id: Option<&str>) -> Result<BundleEndpointProfile, Failure> {
    match name {
        "https_web" => Ok(BundleEndpointProfile::HttpsWeb(HttpsWebProfile {})),
        "https_spiffe" => match given(endpoint_spiffe_id) {
            Some(id) => {
                Ok(BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile { endpoint_spiffe_id: id.to_owned() }))
            }
            None => Err(Failure::new("endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set")),
        },
        other => Err(Failure::new(format!("unknown bundle endpoint profile type: {}", quote(other)))),
    }
}

/// Whose bundle a relationship is given with: the endpoint's trust domain, which is the one its first fetch needs.
fn bundle_owner(
    trust_domain: &str,
    profile: &BundleEndpointProfile,
) -> Result<federation_specs::id::TrustDomain, Failure> {
    match profile {
        BundleEndpointProfile::HttpsSpiffe(profile) => {
            let id = federation_specs::id::SpiffeId::parse(&profile.endpoint_spiffe_id);
            let id = id.map_err(|error| Failure::chain(&error).context("cannot parse the endpoint SPIFFE ID"))?;
            Ok(id.trust_domain().clone())
        }
        BundleEndpointProfile::HttpsWeb(_) => identifiers::trust_domain(trust_domain),
    }
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => create(&arguments).await,
        Command::Delete(arguments) => delete(&arguments).await,
        Command::List(arguments) => list(&arguments).await,
        Command::Refresh(arguments) => refresh(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
        Command::Update(arguments) => update(&arguments).await,
    }
}

async fn create(arguments: &Change) -> Result<(), Failure> {
    let asked = arguments.relationship.relationships()?;
    let api = arguments.socket.connect().await?;
    let request =
        BatchCreateFederationRelationshipRequest { federation_relationships: asked.clone(), output_mask: None };
    let response = connect::trust_domains(&api).batch_create_federation_relationship(request).await?.into_inner();
    match arguments.output.format {
        Format::Json => {
            let name = format!("{PACKAGE}.BatchCreateFederationRelationshipResponse");
            output::to_stdout(&output::json_line(&name, &response)?)
        }
        Format::Pretty => report("create", &asked, created(&response)).finish(),
    }
}

async fn update(arguments: &Change) -> Result<(), Failure> {
    let asked = arguments.relationship.relationships()?;
    let api = arguments.socket.connect().await?;
    let request = BatchUpdateFederationRelationshipRequest {
        federation_relationships: asked.clone(),
        input_mask: None,
        output_mask: None,
    };
    let response = connect::trust_domains(&api).batch_update_federation_relationship(request).await?.into_inner();
    match arguments.output.format {
        Format::Json => {
            let name = format!("{PACKAGE}.BatchUpdateFederationRelationshipResponse");
            output::to_stdout(&output::json_line(&name, &response)?)
        }
        Format::Pretty => report("update", &asked, updated(&response)).finish(),
    }
}

type Outcome = (Status, Option<FederationRelationship>);

fn created(response: &BatchCreateFederationRelationshipResponse) -> Vec<Outcome> {
    let outcome = response.results.iter().cloned();
    outcome.map(|result| (result.status.unwrap_or_default(), result.federation_relationship)).collect()
}

fn updated(response: &BatchUpdateFederationRelationshipResponse) -> Vec<Outcome> {
    let outcome = response.results.iter().cloned();
    outcome.map(|result| (result.status.unwrap_or_default(), result.federation_relationship)).collect()
}

fn report(verb: &str, asked: &[FederationRelationship], outcomes: Vec<Outcome>) -> Report {
    let mut report = Report::default();
    for (asked, (status, stored)) in asked.iter().zip(outcomes) {
        report.stdout.push('\n');
        if status.code == 0 {
            report.stdout.push_str(&block(stored.as_ref().unwrap_or(asked)));
        } else {
            let (code, message) = (code_name(status.code.into()), quote(&status.message));
            report.stderr.push_str(&format!(
                "Failed to {verb} the following federation relationship (code: {code}, msg: {message}):\n{}",
                block(asked)
            ));
            report.failure = Some(format!("failed to {verb} one or more federation relationships"));
        }
    }
    report
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let api = arguments.socket.connect().await?;
    let mut client = connect::trust_domains(&api);
    let mut request = ListFederationRelationshipsRequest { page_size: PAGE, ..Default::default() };
    let mut all = ListFederationRelationshipsResponse::default();
    loop {
        let page = client.list_federation_relationships(request.clone()).await;
        let page = page.map_err(|status| Failure::from(status).context("error listing federation relationships"))?;
        let mut page = page.into_inner();
        all.federation_relationships.append(&mut page.federation_relationships);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let name = format!("{PACKAGE}.ListFederationRelationshipsResponse");
    output::print(arguments.output.format, &name, &all, list_text)
}

fn list_text(response: &ListFederationRelationshipsResponse) -> String {
    let count = response.federation_relationships.len() as u64;
    let mut text = format!("Found {}\n", counted(count, "federation relationship", "federation relationships"));
    for relationship in &response.federation_relationships {
        text.push('\n');
        text.push_str(&block(relationship));
    }
    text
}

async fn show(arguments: &Show) -> Result<(), Failure> {
    let trust_domain = given(arguments.trust_domain.as_deref())
        .ok_or_else(|| Failure::new("a trust domain name is required"))?
        .to_owned();
    let api = arguments.socket.connect().await?;
    let request = GetFederationRelationshipRequest { trust_domain, output_mask: None };
    let relationship = connect::trust_domains(&api).get_federation_relationship(request).await;
    let relationship =
        relationship.map_err(|status| Failure::from(status).context("error showing federation relationship"))?;
    output::print(arguments.output.format, RELATIONSHIP, relationship.get_ref(), show_text)
}

fn show_text(relationship: &FederationRelationship) -> String {
    let trust_domain = &relationship.trust_domain;
    format!("Found a federation relationship with trust domain {trust_domain}:\n\n{}", block(relationship))
}

fn block(relationship: &FederationRelationship) -> String {
    let mut text = format!(
        "Trust domain              : {}\nBundle endpoint URL       : {}\n",
        relationship.trust_domain, relationship.bundle_endpoint_url
    );
    match &relationship.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => text.push_str("Bundle endpoint profile   : https_web\n"),
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => text.push_str(&format!(
            "Bundle endpoint profile   : https_spiffe\nEndpoint SPIFFE ID        : {}\n",
            profile.endpoint_spiffe_id
        )),
        None => {}
    }
    text
}

async fn delete(arguments: &One) -> Result<(), Failure> {
    let id = given(arguments.id.as_deref()).ok_or_else(|| Failure::new("id is required"))?.to_owned();
    let api = arguments.socket.connect().await?;
    let request = BatchDeleteFederationRelationshipRequest { trust_domains: vec![id] };
    let response = connect::trust_domains(&api).batch_delete_federation_relationship(request).await;
    let response = response
        .map_err(|status| Failure::from(status).context("failed to delete federation relationship"))?
        .into_inner();
    match arguments.output.format {
        Format::Json => {
            let name = format!("{PACKAGE}.BatchDeleteFederationRelationshipResponse");
            output::to_stdout(&output::json_line(&name, &response)?)
        }
        Format::Pretty => delete_report(&response).finish(),
    }
}

fn delete_report(response: &BatchDeleteFederationRelationshipResponse) -> Report {
    let Some(result) = response.results.first() else {
        return Report::failed("the issuer's answer holds no result");
    };
    let status = result.status.clone().unwrap_or_default();
    match status.code {
        0 => Report::success("federation relationship deleted.\n"),
        _ => {
            let trust_domain = quote(&result.trust_domain);
            Report::failed(format!("failed to delete federation relationship {trust_domain}: {}", status.message))
        }
    }
}

async fn refresh(arguments: &One) -> Result<(), Failure> {
    let id = given(arguments.id.as_deref()).ok_or_else(|| Failure::new("id is required"))?;
    let api = arguments.socket.connect().await?;
    let request = RefreshBundleRequest { trust_domain: id.to_owned() };
    match connect::trust_domains(&api).refresh_bundle(request).await {
        Ok(_) => {}
        Err(status) if status.code() == Code::NotFound => {
            return Err(Failure::new(format!("there is no federation relationship with trust domain {}", quote(id))));
        }
        Err(status) => return Err(Failure::from(status).context("failed to refresh bundle")),
    }
    let refreshed = Status { code: 0, message: "OK".to_owned() };
    output::print(arguments.output.format, "spire.api.types.Status", &refreshed, |_| "Bundle refreshed\n".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    fn flags(trust_domain: &str, url: &str, profile: &str, endpoint: &str) -> RelationshipFlags {
        let some = |text: &str| Some(text.to_owned());
        RelationshipFlags {
            trust_domain: some(trust_domain),
            bundle_endpoint_url: some(url),
            bundle_endpoint_profile: some(profile),
            endpoint_spiffe_id: some(endpoint),
            trust_domain_bundle_format: "pem".to_owned(),
            ..RelationshipFlags::default()
        }
    }

    #[test]
    fn lists_and_single_relationships_are_spires() {
        let transcripts = Transcripts::of("federation-list");
        let name = format!("{PACKAGE}.ListFederationRelationshipsResponse");
        for (text, json) in transcripts.pairs("federation list") {
            let response: ListFederationRelationshipsResponse = Transcripts::decode(&name, &json);
            assert_eq!(output::json_line(&name, &response).unwrap(), json);
            assert_eq!(list_text(&response), text);
        }
        let transcripts = Transcripts::of("federation-show");
        for trust_domain in ["onprem.example", "rot.example"] {
            for (text, json) in transcripts.pairs(&format!("federation show -trustDomain {trust_domain}")) {
                let relationship: FederationRelationship = Transcripts::decode(RELATIONSHIP, &json);
                assert_eq!(output::json_line(RELATIONSHIP, &relationship).unwrap(), json);
                assert_eq!(show_text(&relationship), text);
            }
        }
    }

    #[test]
    fn creation_reads_as_spires() {
        let transcripts = Transcripts::of("federation-create");
        let asked = flags("onprem.example", "https://localhost:28443", "https_web", "").relationships().unwrap();
        let command = "federation create -trustDomain onprem.example -bundleEndpointURL https://localhost:28443 \
                       -bundleEndpointProfile https_web";
        let all = transcripts.all(command);
        let report = super::report("create", &asked, vec![(Status::default(), Some(asked[0].clone()))]);
        assert_eq!(report.stdout, all[0].stdout);
        let name = format!("{PACKAGE}.BatchCreateFederationRelationshipResponse");
        let refused: BatchCreateFederationRelationshipResponse =
            transcripts.message(&name, &format!("{command} -output json"));
        let report = super::report("create", &asked, created(&refused));
        assert_eq!(report.stdout, all[1].stdout);
        assert_eq!(format!("{}Error: {}\n", report.stderr, report.failure.unwrap()), all[1].stderr);
    }

    #[test]
    fn what_is_missing_is_named() {
        let url = "https://127.0.0.1:38443";
        let cases = [
            (flags("", "", "", ""), "trust domain is required"),
            (flags("x.example", "", "", ""), "bundle endpoint URL is required"),
            (flags("x.example", url, "", ""), "bundle endpoint profile is required"),
            (flags("x.example", url, "nosuch", ""), "unknown bundle endpoint profile type: \"nosuch\""),
            (
                flags("x.example", url, "https_spiffe", ""),
                "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set",
            ),
            (
                RelationshipFlags { data: Some("x.json".to_owned()), ..flags("x.example", "", "", "") },
                "cannot use other flags to specify relationship fields when the 'data' flag is set",
            ),
        ];
        for (flags, text) in cases {
            assert_eq!(flags.relationships().unwrap_err().text(), text);
        }
    }

    #[test]
    fn a_deletion_that_fails_names_the_trust_domain() {
        let transcripts = Transcripts::of("federation-live");
        let name = format!("{PACKAGE}.BatchDeleteFederationRelationshipResponse");
        let json = transcripts.all("federation delete -id td2.example -output json");
        let deleted: BatchDeleteFederationRelationshipResponse = Transcripts::decode(&name, &json[0].stdout);
        assert_eq!(delete_report(&deleted).stdout, transcripts.all("federation delete -id td1.example")[0].stdout);
        let refused: BatchDeleteFederationRelationshipResponse = Transcripts::decode(&name, &json[1].stdout);
        let expected = transcripts.all("federation delete -id td1.example")[1].stderr.replace("td1", "td2");
        assert_eq!(format!("Error: {}\n", delete_report(&refused).failure.unwrap()), expected);
    }
}
