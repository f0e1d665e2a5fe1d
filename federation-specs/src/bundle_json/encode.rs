//! Bundles written as JWK Sets, the same bytes for the same content.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value};

use crate::bundle::{Bundle, JwtAuthority, X509Authority};
use crate::public_key::PublicKey;

const FOUR_SPACES: &[u8] = b"    ";
const TWO_SPACES: &[u8] = b"  ";

/// What marks an X.509 authority of a SPIFFE bundle.
const X509_USE: [(&str, &str); 1] = [("use", "x509-svid")];

/// The bundle as its bundle endpoint serves it: X.509 authorities oldest
/// first, then JWT authorities by key ID, `spiffe_sequence` and
/// `spiffe_refresh_hint` if known; indented by four spaces, no newline at the
/// end. WIT authorities are left out, as SPIRE leaves them out.
pub fn encode(bundle: &Bundle) -> Vec<u8> {
    let x509 = by_age(bundle.x509_authorities()).into_iter().filter_map(|authority| x509_key(authority, &X509_USE));
    let jwt = by_key_id(bundle.jwt_authorities())
        .into_iter()
        .map(|authority| jwk(authority.public_key(), &[("use", "jwt-svid")], Some(authority.key_id()), None));

    let mut document = key_set(x509.chain(jwt));
    if let Some(sequence) = bundle.sequence() {
        document.insert("spiffe_sequence".to_owned(), sequence.into());
    }
    if let Some(hint) = bundle.refresh_hint() {
        document.insert("spiffe_refresh_hint".to_owned(), hint.as_secs().into());
    }
    render(&document, FOUR_SPACES)
}

/// The "standard JWKS" of the Workload, Delegated Identity and Broker APIs:
/// the JWT authorities by key ID, without `use` and without SPIFFE's members.
pub fn encode_jwks(bundle: &Bundle) -> Vec<u8> {
    let keys = by_key_id(bundle.jwt_authorities())
        .into_iter()
        .map(|authority| jwk(authority.public_key(), &[], Some(authority.key_id()), None));
    render(&key_set(keys), FOUR_SPACES)
}

/// The JWKS of OIDC discovery: the JWT authorities by key ID with `alg` and
/// `use` = `sig` (SPIRE 1.15).
pub fn encode_oidc_jwks(bundle: &Bundle) -> Vec<u8> {
    let keys = by_key_id(bundle.jwt_authorities()).into_iter().map(|authority| {
        let algorithm = authority.public_key().jws_algorithm().map(|algorithm| algorithm.as_str());
        jwk(authority.public_key(), &[("use", "sig")], Some(authority.key_id()), algorithm)
    });
    render(&key_set(keys), TWO_SPACES)
}

/// Both kinds of authorities as a plain JWK Set (RFC 7517): as [`encode`], without `use` and without SPIFFE's members,
/// as SPIRE's bundle publishers write their format `jwks`.
pub fn encode_plain_jwks(bundle: &Bundle) -> Vec<u8> {
    let x509 = by_age(bundle.x509_authorities()).into_iter().filter_map(|authority| x509_key(authority, &[]));
    let jwt = by_key_id(bundle.jwt_authorities())
        .into_iter()
        .map(|authority| jwk(authority.public_key(), &[], Some(authority.key_id()), None));
    render(&key_set(x509.chain(jwt)), FOUR_SPACES)
}

fn by_age(authorities: &[X509Authority]) -> Vec<&X509Authority> {
    let mut sorted: Vec<&X509Authority> = authorities.iter().collect();
    sorted.sort_by(|a, b| (a.not_before(), a.der()).cmp(&(b.not_before(), b.der())));
    sorted
}

fn by_key_id(authorities: &[JwtAuthority]) -> Vec<&JwtAuthority> {
    let mut sorted: Vec<&JwtAuthority> = authorities.iter().collect();
    sorted.sort_by_key(|authority| authority.key_id());
    sorted
}

fn x509_key(authority: &X509Authority, leading: &[(&str, &str)]) -> Option<Map<String, Value>> {
    let key = authority.certificate().public_key().ok()?;
    let mut members = jwk(key, leading, None, None);
    members.insert("x5c".to_owned(), vec![STANDARD.encode(authority.der())].into());
    Some(members)
}

/// Members in SPIRE's order: the leading ones, `kty`, `kid`, `crv`, `alg`, and
/// the key.
fn jwk(key: &PublicKey, leading: &[(&str, &str)], key_id: Option<&str>, algorithm: Option<&str>) -> Map<String, Value> {
    let mut members = Map::new();
    for (name, value) in leading {
        members.insert((*name).to_owned(), (*value).into());
    }
    let mut key_members = key.to_jwk();
    for name in ["kty", "kid", "crv", "alg"] {
        let value = match name {
            "kid" => key_id.map(Value::from),
            "alg" => algorithm.map(Value::from),
            _ => key_members.shift_remove(name),
        };
        if let Some(value) = value {
            members.insert(name.to_owned(), value);
        }
    }
    members.extend(key_members);
    members
}

fn key_set(keys: impl Iterator<Item = Map<String, Value>>) -> Map<String, Value> {
    let mut document = Map::new();
    document.insert("keys".to_owned(), keys.map(Value::Object).collect::<Vec<_>>().into());
    document
}

fn render(document: &Map<String, Value>, indent: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(indent));
    // Writing to memory cannot fail, and every member name is a text.
    if document.serialize(&mut serializer).is_err() {
        bytes.clear();
    }
    bytes
}
