//! `entente gateway relationship create|update|delete`: relationships managed one at a time.

use federation_specs::bundle_json;
use federation_specs::id::{SpiffeId, TrustDomain};
use gateway::api::managed::{ChangeKind, ManagedChange};
use gateway::api::{Origin, Relationship};
use http::{HeaderValue, header};
use serde_json::{Map, Value};

use super::path;
use crate::failure::Failure;
use crate::gateway::address::GatewayAddress;
use crate::gateway::apply::change_text;
use crate::gateway::client::query;
use crate::identifiers;
use crate::input;
use crate::issuer::bundle::{self, Encoding};
use crate::output::{self, Format, OutputArguments};

#[derive(Debug, clap::Args)]
pub(crate) struct Change {
    #[command(flatten)]
    gateway: GatewayAddress,
    #[command(flatten)]
    relationship: Flags,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    output: OutputArguments,
}

/// What is said about a relationship: every key of a definition ([`gateway::api::managed::Definition`]) has a flag. An
/// empty value takes a setting away.
#[derive(Debug, Clone, Default, clap::Args)]
struct Flags {
    /// The partner
    #[arg(long = "trustDomain", value_name = "TRUST_DOMAIN")]
    trust_domain: Option<String>,
    /// Where the partner serves its bundle, an https URL
    #[arg(long = "bundleEndpointURL", value_name = "URL")]
    bundle_endpoint_url: Option<String>,
    /// A further URL of the same bundle, asked when the first gives none; may be repeated
    #[arg(long = "failoverURL", value_name = "URL", action = clap::ArgAction::Append)]
    failover_urls: Vec<String>,
    /// A network (10.0.0.0/8) or address that is not public and may be asked for this bundle; may be repeated
    #[arg(long = "allowAddress", value_name = "ADDRESS", action = clap::ArgAction::Append)]
    allow_addresses: Vec<String>,
    /// How the endpoint proves who it is: https_web or https_spiffe
    #[arg(long = "bundleEndpointProfile", value_name = "PROFILE")]
    bundle_endpoint_profile: Option<String>,
    /// The endpoint's SPIFFE ID, for https_spiffe
    #[arg(long = "endpointSpiffeID", value_name = "ID")]
    endpoint_spiffe_id: Option<String>,
    /// The bundle of the endpoint's trust domain to start with, for https_spiffe
    #[arg(long = "trustDomainBundlePath", value_name = "FILE")]
    trust_domain_bundle_path: Option<String>,
    /// What that file holds: pem certificates or a spiffe bundle
    #[arg(long = "trustDomainBundleFormat", value_name = "FORMAT", default_value = "pem")]
    trust_domain_bundle_format: String,
    /// PEM file of the certificate authorities that replace the system's, for https_web
    #[arg(long = "caPath", value_name = "FILE")]
    ca_path: Option<String>,
    /// A local trust domain that receives the bundle; may be repeated; all of them unless given
    #[arg(long = "localTrustDomain", value_name = "TRUST_DOMAIN", action = clap::ArgAction::Append)]
    local_trust_domains: Vec<String>,
    /// Who decides about changes: auto, hold or pinned
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// What becomes of a bundle without keys: hold, accept or refuse
    #[arg(long, value_name = "POLICY")]
    emptied: Option<String>,
    /// What becomes of a bundle somebody changed at an issuer: correct or show
    #[arg(long, value_name = "POLICY")]
    drift: Option<String>,
    /// How long the bundle is good without the partner confirming it, such as 24h
    #[arg(long = "maximumAge", value_name = "DURATION")]
    maximum_age: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// The partner
    #[arg(value_name = "TRUST_DOMAIN")]
    trust_domain: String,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    output: OutputArguments,
}

impl Flags {
    fn partner(&self) -> Result<TrustDomain, Failure> {
        let name = self.trust_domain.as_deref().filter(|name| !name.is_empty());
        identifiers::trust_domain(name.ok_or_else(|| Failure::new("trust domain is required"))?)
    }

    /// Lays what is given over the keys of a definition.
    fn lay_over(&self, keys: &mut Map<String, Value>) -> Result<(), Failure> {
        keys.insert("trust_domain".to_owned(), self.partner()?.to_string().into());
        let mut texts = vec![
            ("url", self.bundle_endpoint_url.clone()),
            ("profile", self.bundle_endpoint_profile.clone()),
            ("endpoint_spiffe_id", self.endpoint_spiffe_id.clone()),
            ("mode", self.mode.clone()),
            ("emptied", self.emptied.clone()),
            ("drift", self.drift.clone()),
            ("maximum_age", self.maximum_age.clone()),
        ];
        let read = |path: &String| if path.is_empty() { Ok(String::new()) } else { input::read(path) };
        texts.push(("ca_pem", self.ca_path.as_ref().map(read).transpose()?));
        for (key, text) in texts {
            match text {
                None => {}
                Some(text) if text.is_empty() => drop(keys.remove(key)),
                Some(text) => drop(keys.insert(key.to_owned(), text.into())),
            }
        }
        match self.trust_domain_bundle_path.as_deref() {
            None => {}
            Some("") => drop(keys.remove("bootstrap_bundle")),
            Some(path) => {
                let document = self.bundle(path, keys.get("endpoint_spiffe_id").and_then(Value::as_str))?;
                keys.insert("bootstrap_bundle".to_owned(), document.into());
            }
        }
        let lists = [
            ("local_trust_domains", &self.local_trust_domains),
            ("failover_urls", &self.failover_urls),
            ("allow_addresses", &self.allow_addresses),
        ];
        for (key, given) in lists.into_iter().filter(|(_, given)| !given.is_empty()) {
            let given: Vec<String> = given.iter().filter(|item| !item.is_empty()).cloned().collect();
            keys.insert(key.to_owned(), given.into());
        }
        Ok(())
    }

    /// The bundle of a file as SPIFFE JSON.
    fn bundle(&self, path: &str, endpoint: Option<&str>) -> Result<String, Failure> {
        let encoding = Encoding::parse(&self.trust_domain_bundle_format)?;
        if encoding == Encoding::Spiffe {
            return input::read(path);
        }
        let owner = match endpoint {
            None => self.partner()?,
            Some(id) => {
                let id = SpiffeId::parse(id);
                let id = id.map_err(|error| Failure::chain(&error).context("cannot parse the endpoint SPIFFE ID"))?;
                id.trust_domain().clone()
            }
        };
        let bundle = bundle::parse(&owner, encoding, &input::bytes(path)?)?;
        Ok(String::from_utf8_lossy(&bundle_json::encode(&bundle)).into_owned())
    }
}

/// What `create` needs, in SPIRE's words.
fn required(keys: &Map<String, Value>) -> Result<(), Failure> {
    for (key, words) in [("url", "bundle endpoint URL is required"), ("profile", "bundle endpoint profile is required")]
    {
        if !keys.contains_key(key) {
            return Err(Failure::new(words));
        }
    }
    Ok(())
}

pub(super) async fn create(arguments: &Change) -> Result<(), Failure> {
    let partner = arguments.relationship.partner()?;
    let mut keys = Map::new();
    arguments.relationship.lay_over(&mut keys)?;
    required(&keys)?;
    let client = arguments.gateway.client().await?;
    let path = format!("{}{}", path(&partner), query("why", &arguments.why));
    let changed = client.put(&path, (header::IF_NONE_MATCH, HeaderValue::from_static("*")), &keys).await?;
    report(arguments.output, &changed)
}

pub(super) async fn update(arguments: &Change) -> Result<(), Failure> {
    let partner = arguments.relationship.partner()?;
    let client = arguments.gateway.client().await?;
    // As the gateway wrote it, so that keys this command knows nothing of are kept.
    let (before, tag): (Value, _) = client.get_tagged(&format!("{}/definition", path(&partner))).await?;
    let mut keys = before["definition"].as_object().cloned().unwrap_or_default();
    arguments.relationship.lay_over(&mut keys)?;
    let path = format!("{}{}", path(&partner), query("why", &arguments.why));
    // Nothing somebody else changed meanwhile is undone.
    let changed = client.put(&path, (header::IF_MATCH, tag), &keys).await?;
    report(arguments.output, &changed)
}

pub(super) async fn delete(arguments: &Delete) -> Result<(), Failure> {
    let partner = identifiers::trust_domain(&arguments.trust_domain)?;
    let client = arguments.gateway.client().await?;
    let changed = client.delete(&format!("{}{}", path(&partner), query("why", &arguments.why))).await?;
    report(arguments.output, &changed)?;
    // Behind what was managed, an issuer or the configuration may have the same partner.
    let Ok(now) = client.get::<Relationship>(&path(&partner)).await else { return Ok(()) };
    match arguments.output.format {
        Format::Json => Ok(()),
        Format::Pretty => output::to_stdout(&still_there(&now)),
    }
}

fn still_there(now: &Relationship) -> String {
    let (by, how) = match now.origin {
        Origin::Issuer => {
            ("an issuer has it", "delete it there as well to end it (`entente issuer federation delete`)")
        }
        Origin::Config => ("the configuration names it", "remove it there as well to end it"),
        Origin::Managed => ("it was created again", "delete it again to end it"),
    };
    format!("The relationship with {} goes on, from {}, because {by}; {how}\n", now.trust_domain, now.url)
}

fn report(output: OutputArguments, changed: &ManagedChange) -> Result<(), Failure> {
    match output.format {
        Format::Json => output::print_json(changed),
        Format::Pretty => output::to_stdout_in_colour(&text(changed)),
    }
}

fn text(changed: &ManagedChange) -> String {
    let mut text = match changed.change.change {
        ChangeKind::Unchanged => format!("{} is unchanged\n", changed.change.trust_domain),
        _ => change_text(&changed.change),
    };
    if let (Some(set), true) = (&changed.managed.set, changed.change.change != ChangeKind::Unchanged) {
        text.push_str(&format!("It is one of set {set}, so that the next apply of that set may undo this\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(clap::Parser)]
    struct Given {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(given: &[&str]) -> Flags {
        let line = ["update", "--trustDomain=spiffe://p.example"].into_iter().chain(given.iter().copied());
        <Given as clap::Parser>::try_parse_from(line).unwrap().flags
    }

    #[test]
    fn every_key_of_a_definition_has_a_flag() {
        let definition: gateway::api::managed::Definition = serde_json::from_value(json!({
            "trust_domain": "p.example", "url": "https://p/", "profile": "https_web",
        }))
        .unwrap();
        let definition = serde_json::to_value(definition).unwrap();
        let mut wanted: Vec<&String> = definition.as_object().unwrap().keys().collect();
        // Files are of the gateway's machine; flags send the documents themselves.
        wanted.retain(|key| !["ca_file", "bootstrap_bundle_file"].contains(&key.as_str()));
        wanted.sort();

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("document");
        std::fs::write(&file, "text").unwrap();
        let every = flags(&[
            "--bundleEndpointURL=https://p/",
            "--failoverURL=https://q/",
            "--allowAddress=10.0.0.1",
            "--bundleEndpointProfile=https_spiffe",
            "--endpointSpiffeID=spiffe://p.example/gw",
            &format!("--trustDomainBundlePath={}", file.display()),
            "--trustDomainBundleFormat=spiffe",
            &format!("--caPath={}", file.display()),
            "--localTrustDomain=a.example",
            "--mode=hold",
            "--emptied=hold",
            "--drift=show",
            "--maximumAge=1h",
        ]);
        let mut keys = Map::new();
        every.lay_over(&mut keys).unwrap();
        let mut given: Vec<&String> = keys.keys().collect();
        given.sort();
        assert_eq!(given, wanted);
    }

    #[test]
    fn flags_become_keys_and_keep_the_others() {
        let mut keys = Map::new();
        let first = ["--bundleEndpointURL=https://p/", "--bundleEndpointProfile=https_web", "--maximumAge=24h"];
        let lists = ["--failoverURL=https://q/", "--failoverURL=https://r/", "--allowAddress=10.0.0.0/8"];
        flags(&[&first[..], &lists].concat()).lay_over(&mut keys).unwrap();
        let wanted = json!({
            "trust_domain": "p.example", "url": "https://p/", "profile": "https_web", "maximum_age": "24h",
            "failover_urls": ["https://q/", "https://r/"], "allow_addresses": ["10.0.0.0/8"],
        });
        assert_eq!(Value::Object(keys.clone()), wanted);
        required(&keys).unwrap();
        keys.insert("something_new".to_owned(), json!(1));
        flags(&["--mode=hold", "--maximumAge=", "--failoverURL="]).lay_over(&mut keys).unwrap();
        let wanted = json!({
            "trust_domain": "p.example", "url": "https://p/", "profile": "https_web", "mode": "hold", "something_new": 1,
            "failover_urls": [], "allow_addresses": ["10.0.0.0/8"],
        });
        assert_eq!(Value::Object(keys), wanted);
        assert_eq!(required(&Map::new()).unwrap_err().text(), "bundle endpoint URL is required");
        assert_eq!(Flags::default().partner().unwrap_err().text(), "trust domain is required");
    }

    #[test]
    fn a_change_of_a_set_says_that_it_may_be_undone() {
        let changed: ManagedChange = serde_json::from_value(json!({
            "change": {"trust_domain": "p.example", "change": "changed",
                       "fields": [{"field": "mode", "before": "auto", "after": "hold"}]},
            "managed": {"set": "default", "version": 7},
        }))
        .unwrap();
        let text = anstream::adapter::strip_str(&text(&changed)).to_string();
        assert!(text.starts_with("~ p.example changed\n    mode: auto -> hold\n") && text.contains("undo"), "{text}");
    }

    #[test]
    fn a_removal_says_who_has_the_partner_all_the_same() {
        let mut now = super::super::tests::relationship();
        now.origin = Origin::Issuer;
        let said = still_there(&now);
        let expected =
            format!("The relationship with onprem.example goes on, from {}, because an issuer has it", now.url);
        assert!(said.starts_with(&expected) && said.contains("entente issuer federation delete"), "{said}");
    }
}
