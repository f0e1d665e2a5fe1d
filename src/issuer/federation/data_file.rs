//! The JSON file of `federation create -data` and `federation update -data`.

use federation_specs::convert;
use federation_specs::proto::types::FederationRelationship;
use serde::Deserialize;
use serde_json::Value;

use super::{bundle_owner, profile};
use crate::failure::Failure;
use crate::input;
use crate::issuer::bundle::{self, Encoding};
use crate::notation::quote;

const KEYS: &[&str] = &[
    "trustDomain",
    "bundleEndpointURL",
    "bundleEndpointProfile",
    "endpointSPIFFEID",
    "trustDomainBundle",
    "trustDomainBundleFormat",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RelationshipData {
    #[serde(default)]
    trust_domain: String,
    #[serde(default, rename = "bundleEndpointURL")]
    bundle_endpoint_url: String,
    #[serde(default)]
    bundle_endpoint_profile: String,
    #[serde(default, rename = "endpointSPIFFEID")]
    endpoint_spiffe_id: String,
    #[serde(default)]
    trust_domain_bundle: Value,
    #[serde(default)]
    trust_domain_bundle_format: String,
}

/// The relationships of the file.
pub(super) fn relationships(text: &str) -> Result<Vec<FederationRelationship>, Failure> {
    let value = input::json(text)?;
    input::known_keys(&value, "the file", &["federationRelationships"])?;
    let items = match value.get("federationRelationships") {
        None | Some(Value::Null) => &Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(Failure::new("\"federationRelationships\" must be a list")),
    };
    let read = items.iter().enumerate().map(|(index, item)| {
        relationship(index, item).map_err(|failure| failure.context(&format!("could not parse item {index}")))
    });
    read.collect()
}

fn relationship(index: usize, item: &Value) -> Result<FederationRelationship, Failure> {
    input::known_keys(item, &format!("federationRelationships[{index}]"), KEYS)?;
    let data = RelationshipData::deserialize(item).map_err(|error| Failure::new(error.to_string()))?;
    let missing = |what: &str| Failure::new(format!("{what} is required"));
    if data.trust_domain.is_empty() {
        return Err(missing("trust domain"));
    }
    if data.bundle_endpoint_url.is_empty() {
        return Err(missing("bundle endpoint URL"));
    }
    if data.bundle_endpoint_profile.is_empty() {
        return Err(missing("bundle endpoint profile"));
    }
    let profile = profile(&data.bundle_endpoint_profile, Some(&data.endpoint_spiffe_id))?;
    let trust_domain_bundle = match &data.trust_domain_bundle {
        Value::Null => None,
        raw => {
            let owner = bundle_owner(&data.trust_domain, &profile)?;
            let (encoding, bytes) = raw_bundle(raw, &data.trust_domain_bundle_format)
                .map_err(|failure| failure.context("cannot parse bundle raw message"))?;
            Some(convert::bundle_to_proto(&bundle::parse(&owner, encoding, &bytes)?))
        }
    };
    Ok(FederationRelationship {
        trust_domain: data.trust_domain,
        bundle_endpoint_url: data.bundle_endpoint_url,
        bundle_endpoint_profile: Some(profile),
        trust_domain_bundle,
    })
}

/// A bundle inside the file: PEM in a string, or the SPIFFE bundle's object itself.
fn raw_bundle(raw: &Value, format: &str) -> Result<(Encoding, Vec<u8>), Failure> {
    match (format, raw) {
        ("pem", Value::String(pem)) => Ok((Encoding::Pem, pem.clone().into_bytes())),
        ("pem", _) => Err(Failure::new("a bundle in the format \"pem\" must be a string")),
        ("spiffe", Value::Object(_)) => Ok((Encoding::Spiffe, raw.to_string().into_bytes())),
        ("spiffe", _) => Err(Failure::new("a bundle in the format \"spiffe\" must be an object")),
        (other, _) => Err(Failure::new(format!("bundle format {} is unsupported", quote(other)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    fn refusal(item: &str) -> String {
        relationships(&format!(r#"{{"federationRelationships":[{item}]}}"#)).unwrap_err().text().to_owned()
    }

    #[test]
    fn bundles_come_as_string_or_object() {
        let transcripts = Transcripts::of("bundle-list");
        let pem = serde_json::to_string(transcripts.stdout("bundle list -id onprem.example")).unwrap();
        let text = format!(
            r#"{{"federationRelationships":[
                {{"trustDomain":"onprem.example","bundleEndpointURL":"https://a/","bundleEndpointProfile":"https_web",
                  "trustDomainBundle":{pem},"trustDomainBundleFormat":"pem"}},
                {{"trustDomain":"td2.example","bundleEndpointURL":"https://a/","bundleEndpointProfile":"https_spiffe",
                  "endpointSPIFFEID":"spiffe://other.example/ep","trustDomainBundle":{{"keys":[]}},
                  "trustDomainBundleFormat":"spiffe"}}]}}"#
        );
        let read = relationships(&text).unwrap();
        assert_eq!(read[0].trust_domain_bundle.as_ref().unwrap().x509_authorities.len(), 1);
        assert_eq!(read[1].trust_domain_bundle.as_ref().unwrap().trust_domain, "other.example");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_item() {
        let start = r#""trustDomain":"a.example","bundleEndpointURL":"https://a/","bundleEndpointProfile":"https_web""#;
        assert_eq!(
            refusal(&format!(r#"{{{start},"trustDomainBundle":"x"}}"#)),
            "could not parse item 0: cannot parse bundle raw message: bundle format \"\" is unsupported"
        );
        assert_eq!(
            refusal(r#"{"trustdomain":"a.example"}"#),
            "could not parse item 0: unknown key \"trustdomain\" in federationRelationships[0]; did you mean \"trustDomain\"?"
        );
        assert_eq!(refusal("{}"), "could not parse item 0: trust domain is required");
    }
}
