//! The X.509 CA: making its certificate and moving it through its slots.

use federation_specs::bundle::X509Authority;
use federation_specs::certificate::Certificate;
use federation_specs::public_key::PublicKey;
use federation_specs::x509_svid::check_ca_certificate;
use service_kit::csr::{self, CsrSubject};
use x509_cert::der::{Decode, Encode};
use x509_cert::name::Name;

use super::certificate::{
    CertificateError, CertificateKey, Issuer, NOT_BEFORE_SLACK, Purpose, Serial, Template, ca_uri, self_sign,
};
use super::name::Subject;
use super::slots::{Contents, Held};
use super::{CaError, CaManager};
use crate::store::{AuthorityKind, AuthorityRecord, AuthorityStatus, Slot};
use crate::upstream::MintedCa;

/// What signing certificates takes.
#[derive(Debug, Clone)]
pub(super) struct X509Signer {
    pub(super) issuer: Issuer,
    /// Certificates that go behind an SVID: CA and intermediates when there is an upstream authority, else nothing.
    pub(super) behind: Vec<Vec<u8>>,
}

/// Name of the slot's key in the key manager.
pub(super) fn key_id(slot: Slot) -> String {
    format!("x509-CA-{slot}")
}

/// A new CA certificate with what must be published for it.
struct NewCa {
    chain: Vec<Vec<u8>>,
    roots: Vec<X509Authority>,
    upstream_authority_id: String,
}

impl CaManager {
    /// Puts what the journal knows into the slots.
    pub(super) async fn load_x509(&self) -> Result<(), CaError> {
        let records = self.store.slots(AuthorityKind::X509).await?;
        let mut contents = Contents::default();
        for record in records {
            let certificate = first_certificate(&record)?;
            let signer = self.signer_of(&record, &certificate).await?;
            let held = self.x509.hold(record, signer);
            if held.record.status == AuthorityStatus::Active && certificate.not_before() > self.clock.now() {
                return Err(CaError::ClockBehind { now: self.clock.now(), not_before: certificate.not_before() });
            }
            self.place(AuthorityKind::X509, &mut contents, held).await?;
        }
        self.x509.set(contents);
        Ok(())
    }

    /// Makes the next X.509 authority and publishes it. Called with the step lock held.
    pub(super) async fn prepare_x509(&self) -> Result<(), CaError> {
        let slot = self.x509.contents().free_slot();
        self.x509.key_changes(slot);
        let public_key = self.keys.generate(&key_id(slot), self.config.ca_key_type).await?;
        let now = self.clock.now();
        let key = CertificateKey::managed(self.keys.clone(), key_id(slot), public_key.clone())?;
        let ca = match &self.upstream {
            None => self.self_signed(&public_key, &key).await?,
            Some(upstream) => {
                let csr = self.upstream_request(slot).await?;
                let minted = upstream.mint_x509_ca(&csr, self.config.ca_ttl).await?;
                from_upstream(minted, &public_key)?
            }
        };
        let leaf = ca.chain.first().ok_or(CaError::NotReady)?;
        let certificate = check_ca_certificate(leaf, &self.config.trust_domain, now)?;
        // SVIDs name their CA by it, people their authority.
        let subject_key_id = certificate.subject_key_id().filter(|id| !id.is_empty());
        let subject_key_id =
            subject_key_id.ok_or_else(|| CaError::Certificate("the CA certificate has no subject key ID".into()))?;
        let record = AuthorityRecord {
            kind: AuthorityKind::X509,
            slot,
            authority_id: hex(subject_key_id),
            status: AuthorityStatus::Prepared,
            issued_at: now.unix_timestamp(),
            not_after: certificate.not_after().unix_timestamp(),
            public_key,
            certificate_chain: ca.chain,
            upstream_authority_id: ca.upstream_authority_id,
        };
        let signer = signer(&record, &certificate, key)?;
        self.store.prepare_authority(&record, &ca.roots, &[]).await?;
        tracing::info!(
            slot = %slot, authority_id = record.authority_id, expires = %certificate.not_after(), "X.509 CA prepared"
        );
        self.x509.put_prepared(self.x509.hold(record, Some(signer)));
        Ok(())
    }

    /// The prepared X.509 authority begins to sign. Called with the step lock held.
    pub(super) async fn activate_x509(&self) -> Result<(), CaError> {
        let contents = self.x509.contents();
        let prepared = contents.next_with(AuthorityStatus::Prepared).ok_or(CaError::NotReady)?;
        self.store.activate_authority(AuthorityKind::X509, &prepared.record.authority_id).await?;
        self.x509.swap();
        tracing::info!(
            slot = %prepared.record.slot,
            authority_id = prepared.record.authority_id,
            expires = %prepared.not_after(),
            "X.509 CA activated"
        );
        Ok(())
    }

    async fn self_signed(&self, public_key: &PublicKey, key: &CertificateKey) -> Result<NewCa, CaError> {
        let serial = Serial::random()?;
        let now = self.clock.now();
        let template = Template {
            purpose: Purpose::Ca,
            serial,
            subject: Subject::ca(&self.config.ca_subject).with_serial_number(&serial.decimal()),
            uri: ca_uri(&self.config.trust_domain),
            dns_names: &[],
            public_key,
            not_before: now - NOT_BEFORE_SLACK,
            not_after: now + self.config.ca_ttl,
        };
        let der = self_sign(&template, key).await?;
        let root = X509Authority::from_der(&der).map_err(|error| CaError::Certificate(Box::new(error)))?;
        Ok(NewCa { chain: vec![der], roots: vec![root], upstream_authority_id: String::new() })
    }

    async fn upstream_request(&self, slot: Slot) -> Result<Vec<u8>, CaError> {
        // The serial of the certificate is the upstream authority's choice; the attribute still tells CAs apart.
        let subject = Subject::ca(&self.config.ca_subject).with_serial_number(&Serial::random()?.decimal());
        let encoded = subject.to_name()?.to_der().map_err(CertificateError::from)?;
        let subject = CsrSubject::from_der(&encoded)?;
        let uri = self.config.trust_domain.id();
        Ok(csr::create_with_manager(&*self.keys, &key_id(slot), subject, Some(&uri), &[]).await?)
    }

    /// What signing takes, or `None` if the key is lost or another one.
    async fn signer_of(
        &self,
        record: &AuthorityRecord,
        certificate: &Certificate,
    ) -> Result<Option<X509Signer>, CaError> {
        if !self.has_key(&key_id(record.slot), &record.public_key).await? {
            return Ok(None);
        }
        let key = CertificateKey::managed(self.keys.clone(), key_id(record.slot), record.public_key.clone())?;
        Ok(Some(signer(record, certificate, key)?))
    }
}

fn signer(record: &AuthorityRecord, certificate: &Certificate, key: CertificateKey) -> Result<X509Signer, CaError> {
    let issuer = Issuer {
        name: Name::from_der(certificate.subject_der()).map_err(CertificateError::from)?,
        key_id: certificate.subject_key_id().unwrap_or_default().to_vec(),
        not_after: certificate.not_after(),
        key,
    };
    let behind = if certificate.is_self_signed() { Vec::new() } else { record.certificate_chain.clone() };
    Ok(X509Signer { issuer, behind })
}

fn from_upstream(minted: MintedCa, public_key: &PublicKey) -> Result<NewCa, CaError> {
    let leaf = minted.chain.first().ok_or(CaError::NotReady)?;
    let certificate = Certificate::from_der(leaf).map_err(|error| CaError::Certificate(Box::new(error)))?;
    if certificate.public_key().ok() != Some(public_key) {
        return Err(CaError::Certificate("the upstream authority signed another key".into()));
    }
    if minted.roots.is_empty() {
        return Err(CaError::Certificate("the upstream authority gave no root".into()));
    }
    // The root signed the last certificate of the chain.
    let last = minted.chain.last().unwrap_or(leaf);
    let last = Certificate::from_der(last).map_err(|error| CaError::Certificate(Box::new(error)))?;
    let upstream_authority_id = hex(last.authority_key_id().unwrap_or_default());
    Ok(NewCa { chain: minted.chain, roots: minted.roots, upstream_authority_id })
}

fn first_certificate(record: &AuthorityRecord) -> Result<Certificate, CaError> {
    let der = record.certificate_chain.first().map(Vec::as_slice).unwrap_or_default();
    Certificate::from_der(der).map_err(|error| CaError::Certificate(Box::new(error)))
}

/// Lowercase hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Held<X509Signer> {
    /// The authority, or the upstream root behind it, is marked as tainted in `bundle`.
    pub(super) fn is_tainted_in(&self, bundle: &federation_specs::bundle::Bundle) -> bool {
        bundle.x509_authorities().iter().filter(|authority| authority.tainted()).any(|authority| {
            let id = authority.key_id_hex();
            id == self.record.authority_id || id == self.record.upstream_authority_id
        })
    }
}
