//! Between generated protobuf messages and the types of this crate
//! (SPIRE 1.15). Texts of errors are those of the wire.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message as _;

use crate::bundle::{Bundle, BundleError, JwtAuthority, X509Authority};
use crate::certificate::split_der_certificates;
use crate::id::{IdError, SpiffeId, TrustDomain};
use crate::profile::{EndpointProfile, EndpointUrl, EndpointUrlError};
use crate::proto::types;
use crate::proto::types::federation_relationship::BundleEndpointProfile;
use crate::proto::types::permission_denied_details::Reason;
use crate::public_key::{PublicKey, PublicKeyError};
use crate::selector::{MatchBehavior, Selector, SelectorError};

/// Most authorities of one kind in a bundle message.
pub const MAX_AUTHORITIES: usize = 4096;
/// Most selectors in one list.
pub const MAX_SELECTORS: usize = 1024;

/// Why a message does not convert.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// No SPIFFE ID message where one is needed.
    #[error("request must specify SPIFFE ID")]
    MissingSpiffeId,
    /// A trust domain or path that breaks a rule.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A selector that breaks a rule.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// More than [`MAX_SELECTORS`].
    #[error("more than {MAX_SELECTORS} selectors")]
    TooManySelectors,
    /// A match mode without meaning.
    #[error("unsupported match behavior {0}")]
    MatchBehavior(i32),
    /// An X.509 authority that is not exactly one certificate.
    #[error("unable to parse X.509 authority: {0}")]
    X509Authority(BundleError),
    /// A JWT or WIT authority that is bad.
    #[error(transparent)]
    JwtAuthority(#[from] KeyAuthorityError),
    /// More than [`MAX_AUTHORITIES`].
    #[error("more than {MAX_AUTHORITIES} authorities of one kind")]
    TooManyAuthorities,
    /// A refresh hint below zero.
    #[error("refresh hint must not be negative")]
    NegativeRefreshHint,
    /// The trust domain of a relationship does not parse.
    #[error("failed to parse trust domain: {0}")]
    TrustDomain(IdError),
    /// The URL of a relationship is bad.
    #[error(transparent)]
    EndpointUrl(#[from] EndpointUrlError),
    /// The endpoint SPIFFE ID of a relationship does not parse.
    #[error("failed to parse endpoint SPIFFE ID: {0}")]
    EndpointId(IdError),
    /// A relationship without profile.
    #[error("unsupported bundle endpoint profile type: <nil>")]
    MissingProfile,
    /// The bundle that came with a relationship is bad.
    #[error("failed to parse bundle: {0}")]
    RelationshipBundle(Box<ConvertError>),
    /// The bundle that came with a relationship is for another trust domain.
    #[error(
        "trust domain bundle (\"{bundle}\") must match the trust domain of the federation relationship (\"{relationship}\")"
    )]
    OtherBundle {
        /// Trust domain of the bundle.
        bundle: TrustDomain,
        /// Trust domain of the relationship.
        relationship: TrustDomain,
    },
}

/// Why a message is not a key that signs tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyAuthorityError {
    /// The key does not parse.
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    /// The key ID is bad.
    #[error(transparent)]
    KeyId(#[from] BundleError),
}

/// Reads a SPIFFE ID message; its trust domain may be a bare name or
/// `spiffe://name`.
///
/// # Errors
/// [`ConvertError::MissingSpiffeId`], [`ConvertError::Id`].
pub fn spiffe_id_from_proto(message: Option<&types::Spiffeid>) -> Result<SpiffeId, ConvertError> {
    let message = message.ok_or(ConvertError::MissingSpiffeId)?;
    let trust_domain = TrustDomain::from_name_or_id(&message.trust_domain)?;
    Ok(SpiffeId::from_parts(&trust_domain, &message.path)?)
}

/// Writes a SPIFFE ID message.
pub fn spiffe_id_to_proto(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain().as_str().to_owned(), path: id.path().to_owned() }
}

/// Reads one selector.
///
/// # Errors
/// [`ConvertError::Selector`].
pub fn selector_from_proto(message: &types::Selector) -> Result<Selector, ConvertError> {
    Ok(Selector::new(message.r#type.clone(), message.value.clone())?)
}

/// Reads a list of selectors in order, duplicates kept.
///
/// # Errors
/// [`ConvertError::Selector`], [`ConvertError::TooManySelectors`].
pub fn selectors_from_proto(messages: &[types::Selector]) -> Result<Vec<Selector>, ConvertError> {
    if messages.len() > MAX_SELECTORS {
        return Err(ConvertError::TooManySelectors);
    }
    messages.iter().map(selector_from_proto).collect()
}

/// Reads a set of selectors.
///
/// # Errors
/// As [`selectors_from_proto`].
pub fn selector_set_from_proto(messages: &[types::Selector]) -> Result<BTreeSet<Selector>, ConvertError> {
    selectors_from_proto(messages).map(BTreeSet::from_iter)
}

/// Writes one selector.
pub fn selector_to_proto(selector: &Selector) -> types::Selector {
    types::Selector { r#type: selector.kind.clone(), value: selector.value.clone() }
}

/// Writes selectors in their order.
pub fn selectors_to_proto<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> Vec<types::Selector> {
    selectors.into_iter().map(selector_to_proto).collect()
}

/// Reads the number of a match mode; those of selectors and of federated
/// trust domains are the same.
///
/// # Errors
/// [`ConvertError::MatchBehavior`].
pub fn match_behavior_from_proto(value: i32) -> Result<MatchBehavior, ConvertError> {
    use types::selector_match::MatchBehavior as Wire;
    match Wire::try_from(value) {
        Ok(Wire::MatchExact) => Ok(MatchBehavior::Exact),
        Ok(Wire::MatchSubset) => Ok(MatchBehavior::Subset),
        Ok(Wire::MatchSuperset) => Ok(MatchBehavior::Superset),
        Ok(Wire::MatchAny) => Ok(MatchBehavior::Any),
        Err(_) => Err(ConvertError::MatchBehavior(value)),
    }
}

/// Reads one X.509 authority; exactly one certificate is taken. The taint mark
/// is not (SPIRE 1.15).
///
/// # Errors
/// [`BundleError`].
pub fn x509_authority_from_proto(message: &types::X509Certificate) -> Result<X509Authority, BundleError> {
    X509Authority::from_der(&message.asn1)
}

/// Writes one X.509 authority, taint mark included.
pub fn x509_authority_to_proto(authority: &X509Authority) -> types::X509Certificate {
    types::X509Certificate { asn1: authority.der().to_vec(), tainted: authority.tainted() }
}

/// Reads one JWT authority, taint mark included: it says nothing in what a
/// client publishes and is for the caller to drop there.
///
/// # Errors
/// [`KeyAuthorityError`].
pub fn jwt_authority_from_proto(message: &types::JwtKey) -> Result<JwtAuthority, KeyAuthorityError> {
    let key = PublicKey::from_spki_der(&message.public_key)?;
    Ok(JwtAuthority::new(message.key_id.clone(), key, Some(message.expires_at), message.tainted)?)
}

/// Writes one JWT authority, taint mark included.
pub fn jwt_authority_to_proto(authority: &JwtAuthority) -> types::JwtKey {
    types::JwtKey {
        public_key: authority.public_key().spki_der().to_vec(),
        key_id: authority.key_id().to_owned(),
        expires_at: authority.expires_at().unwrap_or_default(),
        tainted: authority.tainted(),
    }
}

/// Reads a bundle as a server sends it: taint marks are taken over.
///
/// A SPIRE server stores and sends authorities that are no certificate or several (SPIRE 1.15, `AppendBundle`), and keys
/// of any type Go can parse. The former are taken for what they hold; the latter are passed over if they are not known
/// here, as the standard asks.
///
/// # Errors
/// [`ConvertError`].
pub fn bundle_from_proto(message: &types::Bundle) -> Result<Bundle, ConvertError> {
    let x509 = |authority: &types::X509Certificate| {
        let authorities = match split_der_certificates(&authority.asn1) {
            Ok(certificates) => certificates.iter().map(|der| X509Authority::from_der(der)).collect(),
            Err(_) => X509Authority::from_der(&authority.asn1).map(|authority| vec![authority]),
        };
        let taint = |authorities: Vec<X509Authority>| {
            authorities.into_iter().map(|known| known.with_tainted(authority.tainted)).collect()
        };
        authorities.map(taint)
    };
    let key = |message: &types::JwtKey| match jwt_authority_from_proto(message) {
        Ok(key) => Ok(Some(key)),
        Err(KeyAuthorityError::PublicKey(error)) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error),
    };
    bundle(message, x509, key)
}

/// Reads a bundle as a client hands it in: each authority is exactly one certificate or key; taint marks and WIT
/// authorities are not taken (SPIRE 1.15).
///
/// # Errors
/// [`ConvertError`].
pub fn bundle_from_client(message: &types::Bundle) -> Result<Bundle, ConvertError> {
    let x509 =
        |authority: &types::X509Certificate| x509_authority_from_proto(authority).map(|authority| vec![authority]);
    let key = |message: &types::JwtKey| Ok(Some(jwt_authority_from_proto(message)?.with_tainted(false)));
    bundle(&types::Bundle { wit_authorities: Vec::new(), ..message.clone() }, x509, key)
}

fn bundle(
    message: &types::Bundle,
    x509: impl Fn(&types::X509Certificate) -> Result<Vec<X509Authority>, BundleError>,
    key: impl Fn(&types::JwtKey) -> Result<Option<JwtAuthority>, KeyAuthorityError>,
) -> Result<Bundle, ConvertError> {
    let counts = [message.x509_authorities.len(), message.jwt_authorities.len(), message.wit_authorities.len()];
    if counts.into_iter().any(|count| count > MAX_AUTHORITIES) {
        return Err(ConvertError::TooManyAuthorities);
    }
    let trust_domain = TrustDomain::from_name_or_id(&message.trust_domain)?;
    let mut authorities = Vec::with_capacity(message.x509_authorities.len());
    for authority in &message.x509_authorities {
        authorities.extend(x509(authority).map_err(ConvertError::X509Authority)?);
        if authorities.len() > MAX_AUTHORITIES {
            return Err(ConvertError::TooManyAuthorities);
        }
    }
    let jwt = message.jwt_authorities.iter().filter_map(|message| key(message).transpose());
    let wit = message.wit_authorities.iter().filter_map(|authority| {
        key(&types::JwtKey {
            public_key: authority.public_key.clone(),
            key_id: authority.key_id.clone(),
            expires_at: authority.expires_at,
            tainted: authority.tainted,
        })
        .transpose()
    });
    let hint = u64::try_from(message.refresh_hint).map_err(|_| ConvertError::NegativeRefreshHint)?;
    Ok(Bundle::new(trust_domain)
        .with_x509_authorities(authorities)
        .with_jwt_authorities(jwt.collect::<Result<Vec<_>, _>>()?)
        .with_wit_authorities(wit.collect::<Result<Vec<_>, _>>()?)
        .with_refresh_hint(Some(Duration::from_secs(hint)))
        .with_sequence(Some(message.sequence_number)))
}

/// Writes a bundle, trust domain as bare name.
pub fn bundle_to_proto(bundle: &Bundle) -> types::Bundle {
    types::Bundle {
        trust_domain: bundle.trust_domain().as_str().to_owned(),
        x509_authorities: bundle.x509_authorities().iter().map(x509_authority_to_proto).collect(),
        jwt_authorities: bundle.jwt_authorities().iter().map(jwt_authority_to_proto).collect(),
        refresh_hint: bundle.refresh_hint().map_or(0, |hint| i64::try_from(hint.as_secs()).unwrap_or(i64::MAX)),
        sequence_number: bundle.sequence().unwrap_or_default(),
        wit_authorities: bundle
            .wit_authorities()
            .iter()
            .map(jwt_authority_to_proto)
            .map(|key| types::WitKey {
                public_key: key.public_key,
                key_id: key.key_id,
                expires_at: key.expires_at,
                tainted: key.tainted,
            })
            .collect(),
    }
}

/// A federation relationship, read and checked (SPIRE 1.15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relationship {
    /// The foreign trust domain.
    pub trust_domain: TrustDomain,
    /// Where its bundle endpoint is.
    pub url: EndpointUrl,
    /// How the endpoint proves itself.
    pub profile: EndpointProfile,
    /// The bundle that came along, for the same trust domain.
    pub bundle: Option<Bundle>,
}

/// Reads a relationship as a client hands it in.
///
/// # Errors
/// [`ConvertError`].
pub fn relationship_from_proto(message: &types::FederationRelationship) -> Result<Relationship, ConvertError> {
    let trust_domain = TrustDomain::from_name_or_id(&message.trust_domain).map_err(ConvertError::TrustDomain)?;
    let url = EndpointUrl::parse(&message.bundle_endpoint_url)?;
    let profile = match &message.bundle_endpoint_profile {
        None => return Err(ConvertError::MissingProfile),
        Some(BundleEndpointProfile::HttpsWeb(_)) => EndpointProfile::HttpsWeb,
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => EndpointProfile::HttpsSpiffe {
            endpoint_id: SpiffeId::parse(&profile.endpoint_spiffe_id).map_err(ConvertError::EndpointId)?,
        },
    };
    let bundle = message
        .trust_domain_bundle
        .as_ref()
        .map(bundle_from_client)
        .transpose()
        .map_err(|error| ConvertError::RelationshipBundle(Box::new(error)))?;
    if let Some(bundle) = &bundle
        && *bundle.trust_domain() != trust_domain
    {
        return Err(ConvertError::OtherBundle { bundle: bundle.trust_domain().clone(), relationship: trust_domain });
    }
    Ok(Relationship { trust_domain, url, profile, bundle })
}

/// Writes a relationship.
pub fn relationship_to_proto(relationship: &Relationship) -> types::FederationRelationship {
    types::FederationRelationship {
        trust_domain: relationship.trust_domain.as_str().to_owned(),
        bundle_endpoint_url: relationship.url.as_str().to_owned(),
        trust_domain_bundle: relationship.bundle.as_ref().map(bundle_to_proto),
        bundle_endpoint_profile: Some(profile_to_proto(&relationship.profile)),
    }
}

/// Writes a profile.
pub fn profile_to_proto(profile: &EndpointProfile) -> BundleEndpointProfile {
    match profile {
        EndpointProfile::HttpsWeb => BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
        EndpointProfile::HttpsSpiffe { endpoint_id } => BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
            endpoint_spiffe_id: endpoint_id.to_string(),
        }),
    }
}

/// Type URL of the detail in [`permission_denied_details`].
pub const PERMISSION_DENIED_TYPE_URL: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";

/// The encoded `google.rpc.Status` a gRPC server sends in
/// `grpc-status-details-bin` with a PermissionDenied that has a reason.
pub fn permission_denied_details(reason: Reason, message: &str) -> Vec<u8> {
    const PERMISSION_DENIED: i32 = 7;
    let details = types::PermissionDeniedDetails { reason: reason.into() };
    let status = crate::proto::rpc::Status {
        code: PERMISSION_DENIED,
        message: message.to_owned(),
        details: vec![prost_types::Any {
            type_url: PERMISSION_DENIED_TYPE_URL.to_owned(),
            value: details.encode_to_vec(),
        }],
    };
    status.encode_to_vec()
}

/// The reason in an encoded `google.rpc.Status`, if there is one.
pub fn permission_denied_reason(details: &[u8]) -> Option<Reason> {
    let status = crate::proto::rpc::Status::decode(details).ok()?;
    let any = status.details.iter().find(|any| any.type_url == PERMISSION_DENIED_TYPE_URL)?;
    Some(types::PermissionDeniedDetails::decode(any.value.as_slice()).ok()?.reason())
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
