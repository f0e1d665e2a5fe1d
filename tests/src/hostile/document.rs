//! Bundles that are none, or none to be accepted, and a few that look odd and are fine. Connection, TLS and HTTP are
//! right.

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, date_time_ymd};
use serde_json::{Value, json};

use super::{
    authority::{self, Keys},
    response::gzip_bomb,
};

/// Sequence of the good bundle a partner served before.
pub const GOOD_SEQUENCE: u64 = 5;

/// Refresh hint of that bundle, in seconds.
pub const GOOD_HINT: u64 = 60;

/// What is in the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Document {
    /// Nothing.
    IsEmpty,
    /// A sentence.
    IsText,
    /// A login page.
    IsHtml,
    /// PEM certificates instead of JSON.
    IsPem,
    /// Compressed without saying so.
    IsUnannouncedGzip,
    /// Not UTF-8.
    IsNotUtf8,
    /// JSON after a byte order mark.
    HasByteOrderMark,
    /// JSON, and something behind it.
    HasMoreBehind,
    /// An array.
    IsArray,
    /// `null`.
    IsNull,
    /// `keys` twice.
    HasKeysTwice,
    /// A member of a key twice.
    HasMemberTwice,
    /// Arrays in arrays, a thousand deep.
    IsDeep,
    /// A number no computer holds.
    HasImpossibleNumber,
    /// No `keys`.
    LacksKeys,
    /// `keys` is null.
    HasNullKeys,
    /// `keys` is an object, as in a bundle map.
    HasKeysObject,
    /// `keys` holds texts.
    HasTextKeys,
    /// `keys` has 10,000 elements.
    HasTooManyKeys,
    /// Every key has a `use` of the future.
    HasUnknownUsesOnly,
    /// Every key has a `kty` of the future.
    HasUnknownTypesOnly,
    /// Every key lacks `use`, as in an OIDC key set.
    LacksUses,
    /// The root's certificate is missing.
    LacksCertificate,
    /// Two certificates in one value of `x5c`.
    HasTwoCertificatesInOne,
    /// `x5c` holds bytes that are no certificate.
    HasGarbageCertificate,
    /// `x5c` is not base64.
    HasUndecodableCertificate,
    /// `x5c` certifies another key.
    HasCertificateOfOtherKey,
    /// The root's certificate is longer than any should be.
    HasHugeCertificate,
    /// The root expired.
    HasExpiredRoot,
    /// The root is not valid yet.
    HasFutureRoot,
    /// The root has an RSA key of 1024 bits.
    HasWeakRoot,
    /// The root is a server's certificate.
    HasLeafAsRoot,
    /// The root is that of another partner.
    HasRootOfAnotherDomain,
    /// A key that signs tokens is that of another partner.
    HasJwtKeyOfAnotherDomain,
    /// A key that signs tokens has no `kid`.
    LacksKeyId,
    /// One `kid` for two keys.
    HasKeyIdTwice,
    /// A `kid` of two kilobytes.
    HasLongKeyId,
    /// A point that is not on its curve.
    HasPointOffCurve,
    /// A coordinate is missing.
    LacksCoordinate,
    /// The private key is published.
    HasPrivateKey,
    /// A negative refresh hint.
    HasNegativeHint,
    /// The refresh hint is a text.
    HasTextHint,
    /// A sequence with decimals.
    HasFractionalSequence,
    /// The sequence is a text.
    HasTextSequence,
    /// A negative sequence.
    HasNegativeSequence,
    /// A sequence of more than 64 bits.
    HasImpossibleSequence,
    /// A lower sequence than before.
    IsRolledBack,
    /// No keys any more.
    IsEmptied,
    /// Fine: a refresh hint of a million years.
    HasHugeHint,
    /// Fine: the largest sequence there is.
    HasHugeSequence,
    /// Fine: no sequence and no hint.
    LacksNumbers,
    /// Fine: members nobody knows.
    HasUnknownMembers,
    /// Fine: keys of the future beside those of today.
    HasKeysOfTheFuture,
    /// Fine: an expired root beside a valid one.
    HasExpiredRootToo,
    /// Fine: two values in `x5c`, of which the first counts.
    HasCertificateChain,
    /// Fine: the same key twice.
    RepeatsKey,
    /// Fine: said to be HTML, but a bundle. The standard only asks servers to name JSON.
    IsSaidToBeHtml,
}

impl Document {
    /// `content-type` of the response.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::IsHtml | Self::IsSaidToBeHtml => "text/html; charset=utf-8",
            Self::IsText | Self::IsPem => "text/plain",
            _ => "application/json",
        }
    }

    /// The body, made of the keys of a partner that served a good bundle before, and of another partner's.
    pub(super) fn body(self, keys: &Keys, others: &Keys) -> Result<Vec<u8>> {
        let good = keys.bundle(GOOD_SEQUENCE + 1, GOOD_HINT);
        let text = good.to_string();
        let body = match self {
            Self::IsEmpty => Vec::new(),
            Self::IsText => b"no such bundle".to_vec(),
            Self::IsHtml => b"<!DOCTYPE html><html><body>Please log in.</body></html>".to_vec(),
            Self::IsPem => b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_vec(),
            Self::IsUnannouncedGzip => gzip_bomb(1 << 20),
            Self::IsNotUtf8 => [b"{\"keys\": [\"", &[0xff, 0xfe][..], b"\"]}"].concat(),
            Self::HasByteOrderMark => format!("\u{feff}{text}").into_bytes(),
            Self::HasMoreBehind => format!("{text}{text}").into_bytes(),
            Self::IsArray => b"[]".to_vec(),
            Self::IsNull => b"null".to_vec(),
            Self::HasKeysTwice => text.replacen("{\"keys\"", "{\"keys\":[],\"keys\"", 1).into_bytes(),
            Self::HasMemberTwice => {
                text.replacen("\"use\":\"x509-svid\"", "\"use\":\"ssh\",\"use\":\"x509-svid\"", 1).into_bytes()
            }
            Self::IsDeep => format!("{{\"keys\":{}{}}}", "[".repeat(1000), "]".repeat(1000)).into_bytes(),
            Self::HasImpossibleNumber => text.replacen('{', "{\"number\":1e999,", 1).into_bytes(),
            _ => self.changed(good, keys, others)?.to_string().into_bytes(),
        };
        Ok(body)
    }

    /// Bundles that are JSON.
    fn changed(self, mut good: Value, keys: &Keys, others: &Keys) -> Result<Value> {
        let root = |change: &dyn Fn(&mut rcgen::CertificateParams)| -> Result<Value> {
            Ok(Keys::create_with(keys.trust_domain(), change)?.root_jwk())
        };
        let certificate = |der: &[u8]| json!([STANDARD.encode(der)]);
        let members = good.as_object_mut().context("a bundle is an object")?;
        match self {
            Self::LacksKeys => drop(members.remove("keys")),
            Self::LacksNumbers => {
                members.remove("spiffe_sequence");
                members.remove("spiffe_refresh_hint");
            }
            Self::HasNullKeys => good["keys"] = Value::Null,
            Self::HasKeysObject => good["keys"] = json!({keys.trust_domain(): {"keys": []}}),
            Self::HasTextKeys => good["keys"] = json!(["one", "two"]),
            Self::HasTooManyKeys => good["keys"] = json!(vec![json!({"kty": "EC"}); 10_000]),
            Self::HasUnknownUsesOnly => set(&mut good, "use", &json!("tomorrow-svid")),
            Self::HasUnknownTypesOnly => set(&mut good, "kty", &json!("AKP")),
            Self::LacksUses => remove(&mut good, "use"),
            Self::LacksCertificate => {
                good["keys"].as_array_mut().context("keys")?.truncate(1);
                remove(&mut good, "x5c");
            }
            Self::HasTwoCertificatesInOne => {
                let other = Keys::create(keys.trust_domain())?;
                good["keys"][0]["x5c"] = certificate(&[keys.root().as_ref(), other.root().as_ref()].concat());
            }
            Self::HasGarbageCertificate => good["keys"][0]["x5c"] = certificate(b"no certificate"),
            Self::HasUndecodableCertificate => good["keys"][0]["x5c"] = json!(["%%%"]),
            Self::HasCertificateOfOtherKey => {
                good["keys"][0]["x5c"] = certificate(Keys::create(keys.trust_domain())?.root());
            }
            Self::HasHugeCertificate => good["keys"][0]["x5c"] = certificate(&vec![0x30; 100_000]),
            Self::HasExpiredRoot => {
                good["keys"] = json!([root(&|params| params.not_after = date_time_ymd(2001, 1, 1))?]);
            }
            Self::HasFutureRoot => {
                good["keys"] = json!([root(&|params| params.not_before = date_time_ymd(2999, 1, 1))?]);
            }
            Self::HasWeakRoot => good["keys"] = json!([authority::weak_root_jwk()?]),
            Self::HasLeafAsRoot => good["keys"] = json!([authority::leaf_jwk()?]),
            Self::HasRootOfAnotherDomain => push(&mut good, others.root_jwk())?,
            Self::HasJwtKeyOfAnotherDomain => good["keys"] = json!([keys.root_jwk(), others.jwt_jwk()]),
            Self::LacksKeyId => drop(good["keys"][1].as_object_mut().context("a key")?.remove("kid")),
            Self::HasKeyIdTwice => push(&mut good, Keys::create(keys.trust_domain())?.jwt_jwk())?,
            Self::HasLongKeyId => good["keys"][1]["kid"] = json!("k".repeat(2048)),
            Self::HasPointOffCurve => good["keys"][1]["y"] = good["keys"][1]["x"].clone(),
            Self::LacksCoordinate => drop(good["keys"][1].as_object_mut().context("a key")?.remove("y")),
            Self::HasPrivateKey => good["keys"][1]["d"] = good["keys"][1]["x"].clone(),
            Self::HasNegativeHint => good["spiffe_refresh_hint"] = json!(-300),
            Self::HasTextHint => good["spiffe_refresh_hint"] = json!("5m"),
            Self::HasFractionalSequence => good["spiffe_sequence"] = json!(6.5),
            Self::HasTextSequence => good["spiffe_sequence"] = json!("6"),
            Self::HasNegativeSequence => good["spiffe_sequence"] = json!(-6),
            Self::HasImpossibleSequence => good["spiffe_sequence"] = json!(1e30),
            Self::IsRolledBack => good["spiffe_sequence"] = json!(GOOD_SEQUENCE - 1),
            Self::IsEmptied => good["keys"] = json!([]),
            Self::HasHugeHint => good["spiffe_refresh_hint"] = json!(u64::MAX),
            Self::HasHugeSequence => good["spiffe_sequence"] = json!(u64::MAX),
            Self::HasUnknownMembers => {
                good["spiffe_future"] = json!({"anything": [1, 2.5, null]});
                set(&mut good, "future", &json!(true));
            }
            Self::HasKeysOfTheFuture => {
                let mut of_tomorrow = authority::jwk("tomorrow-svid", &KeyPair::generate()?);
                push(&mut good, Value::Object(of_tomorrow.clone()))?;
                of_tomorrow.remove("use");
                push(&mut good, Value::Object(of_tomorrow))?;
                push(
                    &mut good,
                    json!({"use": "jwt-svid", "kty": "AKP", "alg": "ML-DSA-65", "kid": "pq", "pub": "AA"}),
                )?;
            }
            Self::HasExpiredRootToo => push(&mut good, root(&|params| params.not_after = date_time_ymd(2001, 1, 1))?)?,
            Self::HasCertificateChain => {
                let other = Keys::create(keys.trust_domain())?;
                let values = good["keys"][0]["x5c"].as_array_mut().context("x5c")?;
                values.push(json!(STANDARD.encode(other.root())));
            }
            Self::RepeatsKey => {
                let (root, jwt) = (good["keys"][0].clone(), good["keys"][1].clone());
                push(&mut good, root)?;
                push(&mut good, jwt)?;
            }
            _ => {}
        }
        Ok(good)
    }
}

fn keys_of(bundle: &mut Value) -> impl Iterator<Item = &mut serde_json::Map<String, Value>> {
    bundle["keys"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut)
}

fn set(bundle: &mut Value, name: &str, value: &Value) {
    for key in keys_of(bundle) {
        key.insert(name.to_owned(), value.clone());
    }
}

fn remove(bundle: &mut Value, name: &str) {
    for key in keys_of(bundle) {
        key.remove(name);
    }
}

fn push(bundle: &mut Value, key: Value) -> Result<()> {
    bundle["keys"].as_array_mut().context("keys")?.push(key);
    Ok(())
}
