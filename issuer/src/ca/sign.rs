//! Signing X509-SVIDs, JWT-SVIDs and downstream CA certificates.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use federation_specs::certificate::Certificate;
use federation_specs::dns_name;
use federation_specs::id::SpiffeId;
use federation_specs::jwt_svid::signing_input;
use federation_specs::public_key::PublicKey;
use federation_specs::x509_svid::{check_ca_certificate, check_svid_certificate};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::certificate::{NOT_BEFORE_SLACK, Purpose, Serial, Template, ca_uri, issue, svid_uri};
use super::name::Subject;
use super::slots::Held;
use super::x509::X509Signer;
use super::{CaError, CaManager, MAX_AUDIENCE_BYTES, MAX_AUDIENCES};

/// How often signing begins again because the slot it signed with was filled anew. Once is rare already.
const ATTEMPTS: usize = 3;

/// A workload's X509-SVID to sign.
#[derive(Debug, Clone)]
pub struct X509SvidParams {
    /// URI SAN.
    pub spiffe_id: SpiffeId,
    /// From the request, whose signature the caller has checked.
    pub public_key: PublicKey,
    /// SANs in order; the first replaces the common name.
    pub dns_names: Vec<String>,
    /// `None` or zero: the default.
    pub ttl: Option<Duration>,
    /// Encoded subject of the request, when minting; `None` or an empty name: C=US, O=SPIRE.
    pub subject_der: Option<Vec<u8>>,
}

/// A signed X509-SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Svid {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// DER, leaf first, root excluded.
    pub chain: Vec<Vec<u8>>,
    /// Unix seconds.
    pub expires_at: i64,
    /// Serial number in decimal.
    pub serial_decimal: String,
}

/// A JWT-SVID to sign.
#[derive(Debug, Clone)]
pub struct JwtSvidParams {
    /// `sub`
    pub spiffe_id: SpiffeId,
    /// `aud` in order; empty texts are dropped, one must be left.
    pub audience: Vec<String>,
    /// `None` or zero: the default.
    pub ttl: Option<Duration>,
    /// With a `jti`.
    pub include_jti: bool,
}

/// A signed JWT-SVID. `Debug` leaves the token out.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSvid {
    /// `sub`
    pub spiffe_id: SpiffeId,
    /// Compact serialisation: a secret.
    pub token: String,
    /// `exp`, unix seconds.
    pub expires_at: i64,
    /// `iat`, unix seconds.
    pub issued_at: i64,
}

impl std::fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("expires_at", &self.expires_at)
            .field("issued_at", &self.issued_at)
            .finish_non_exhaustive()
    }
}

/// A CA certificate for a downstream server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownstreamCa {
    /// DER, the new CA first, root excluded.
    pub chain: Vec<Vec<u8>>,
    /// DER of each root in the own bundle.
    pub roots: Vec<Vec<u8>>,
}

impl CaManager {
    /// Signs a workload's X509-SVID.
    ///
    /// # Errors
    /// [`CaError::Subject`], [`CaError::DnsName`]; all others are internal.
    pub async fn sign_x509_svid(&self, params: &X509SvidParams) -> Result<X509Svid, CaError> {
        let mut subject = match &params.subject_der {
            Some(der) => Subject::from_der(der).map_err(|_| CaError::Subject)?,
            None => Subject::default(),
        };
        if subject.is_empty() {
            subject = Subject::svid();
        }
        for name in &params.dns_names {
            dns_name::check(name)
                .map_err(|error| CaError::DnsName { name: name.clone(), reason: error.to_string() })?;
        }
        if let Some(first) = params.dns_names.first() {
            subject = subject.with_common_name(first);
        }
        if self.config.unique_id {
            subject = subject.with_unique_identifier_of(&params.spiffe_id);
        }
        let ttl = chosen(params.ttl, self.config.default_x509_svid_ttl);
        self.sign_svid(&params.spiffe_id, &params.public_key, subject, &params.dns_names, ttl).await
    }

    /// Signs an agent's X509-SVID.
    ///
    /// # Errors
    /// Internal ones only.
    pub async fn sign_agent_svid(&self, agent_id: &SpiffeId, public_key: &PublicKey) -> Result<X509Svid, CaError> {
        let ttl = self.config.agent_ttl.unwrap_or(self.config.default_x509_svid_ttl);
        self.sign_svid(agent_id, public_key, Subject::svid(), &[], ttl).await
    }

    /// Signs an X509-SVID with the active CA.
    pub(super) async fn sign_svid(
        &self,
        id: &SpiffeId,
        public_key: &PublicKey,
        subject: Subject,
        dns_names: &[String],
        ttl: Duration,
    ) -> Result<X509Svid, CaError> {
        let now = self.clock.now();
        let serial = Serial::random()?;
        let template = Template {
            purpose: Purpose::Svid,
            serial,
            subject,
            uri: svid_uri(id),
            dns_names,
            public_key,
            not_before: now - NOT_BEFORE_SLACK,
            not_after: now + ttl,
        };
        let (der, ca) = self.issue_with_active(&template).await?;
        let certificate = check_svid_certificate(&der, id, now)?;
        let mut chain = vec![der];
        chain.extend(ca.signer.iter().flat_map(|signer| signer.behind.iter().cloned()));
        Ok(X509Svid {
            spiffe_id: id.clone(),
            chain,
            expires_at: certificate.not_after().unix_timestamp(),
            serial_decimal: serial.decimal(),
        })
    }

    /// Signs a CA certificate for a downstream server of the same trust domain. Its subject is the parent's, with the
    /// depth as organizational unit.
    ///
    /// # Errors
    /// Internal ones only.
    pub async fn sign_downstream_ca(
        &self,
        public_key: &PublicKey,
        preferred_ttl: Option<Duration>,
    ) -> Result<DownstreamCa, CaError> {
        let now = self.clock.now();
        let contents = self.x509.contents();
        let parent = contents.active.as_ref().ok_or(CaError::NotReady)?;
        let parent_der = parent.record.certificate_chain.first().ok_or(CaError::NotReady)?;
        let parent_certificate =
            Certificate::from_der(parent_der).map_err(|error| CaError::Certificate(Box::new(error)))?;
        let depth = parent.record.certificate_chain.len();
        let subject = Subject::from_der(parent_certificate.subject_der())?;
        let template = Template {
            purpose: Purpose::Ca,
            serial: Serial::random()?,
            subject: subject.with_organizational_unit(&format!("DOWNSTREAM-{depth}")),
            uri: ca_uri(&self.config.trust_domain),
            dns_names: &[],
            public_key,
            not_before: now - NOT_BEFORE_SLACK,
            not_after: now + chosen(preferred_ttl, self.config.ca_ttl),
        };
        let (der, ca) = self.issue_with_active(&template).await?;
        check_ca_certificate(&der, &self.config.trust_domain, now)?;
        let mut chain = vec![der];
        chain.extend(ca.signer.iter().flat_map(|signer| signer.behind.iter().cloned()));
        let roots = self.bundle().x509_authorities().iter().map(|authority| authority.der().to_vec()).collect();
        Ok(DownstreamCa { chain, roots })
    }

    /// Signs with the active CA and makes sure that it was its key that signed.
    async fn issue_with_active(&self, template: &Template<'_>) -> Result<(Vec<u8>, Arc<Held<X509Signer>>), CaError> {
        for _ in 0..ATTEMPTS {
            let contents = self.x509.contents();
            let held = contents.active.as_ref().ok_or(CaError::NotReady)?;
            let signer = held.signer.as_ref().ok_or(CaError::NotReady)?;
            let der = issue(template, &signer.issuer).await?;
            if self.x509.key_is_unchanged(held) {
                return Ok((der, held.clone()));
            }
        }
        Err(CaError::KeyReplaced)
    }

    /// Signs a JWT-SVID.
    ///
    /// # Errors
    /// [`CaError::EmptyAudience`], [`CaError::LongAudience`], [`CaError::JwtDisabled`]; all others are internal.
    pub async fn sign_jwt_svid(&self, params: &JwtSvidParams) -> Result<JwtSvid, CaError> {
        if self.config.disable_jwt_svids {
            return Err(CaError::JwtDisabled);
        }
        let bytes: usize = params.audience.iter().map(String::len).sum();
        if params.audience.len() > MAX_AUDIENCES || bytes > MAX_AUDIENCE_BYTES {
            return Err(CaError::LongAudience);
        }
        let audience: Vec<Value> =
            params.audience.iter().filter(|name| !name.is_empty()).map(|name| name.clone().into()).collect();
        if audience.is_empty() {
            return Err(CaError::EmptyAudience);
        }
        let now = self.clock.now();
        let issued_at = now.unix_timestamp();
        let wanted_end = (now + chosen(params.ttl, self.config.default_jwt_svid_ttl)).unix_timestamp();
        let mut claims = Map::new();
        claims.insert("aud".to_owned(), audience.into());
        claims.insert("exp".to_owned(), Value::Null);
        claims.insert("iat".to_owned(), issued_at.into());
        if let Some(issuer) = &self.config.jwt_issuer {
            claims.insert("iss".to_owned(), issuer.clone().into());
        }
        if params.include_jti {
            claims.insert("jti".to_owned(), URL_SAFE_NO_PAD.encode(Uuid::new_v4().as_bytes()).into());
        }
        claims.insert("sub".to_owned(), params.spiffe_id.to_string().into());
        for _ in 0..ATTEMPTS {
            let contents = self.jwt.contents();
            let held = contents.active.as_ref().ok_or(CaError::NotReady)?;
            let signer = held.signer.as_ref().ok_or(CaError::NotReady)?;
            let expires_at = wanted_end.min(held.record.not_after);
            if expires_at <= issued_at {
                return Err(CaError::Expired);
            }
            claims.insert("exp".to_owned(), expires_at.into());
            let input = signing_input(signer.algorithm, &held.record.authority_id, "JWT", &claims);
            let signature = self.keys.sign(&signer.key_id, input.as_bytes(), signer.signing).await?;
            if self.jwt.key_is_unchanged(held) {
                let token = input.assemble(&signature)?;
                return Ok(JwtSvid { spiffe_id: params.spiffe_id.clone(), token, expires_at, issued_at });
            }
        }
        Err(CaError::KeyReplaced)
    }
}

fn chosen(wanted: Option<Duration>, default: Duration) -> Duration {
    wanted.filter(|ttl| !ttl.is_zero()).unwrap_or(default)
}
