//! One order: names proven, a new key, a certificate (RFC 8555 section 7.4).

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, Identifier, NewOrder, Order, OrderStatus,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use service_kit::{
    clock::SharedClock,
    csr::{self, CsrSubject},
    keys::{KeyType, PrivateKey},
};

use super::{
    certificate::{Issued, MAX_CHAIN},
    challenge::Challenges,
    challenge_kind::ChallengeKind,
    directory::Directory,
    error::{AcmeError, shown, unproven},
};

/// Pauses between looks at an order, doubling.
const FIRST_LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK: Duration = Duration::from_secs(5);

/// What is ordered, and with what.
pub(super) struct Request<'a> {
    pub(super) account: &'a Account,
    pub(super) directory: &'a Directory,
    pub(super) names: &'a [String],
    pub(super) kind: ChallengeKind,
    pub(super) challenges: &'a Arc<Challenges>,
    /// The certificate that goes (RFC 9773 section 5).
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
    pub(super) clock: &'a SharedClock,
}

impl Request<'_> {
    /// Orders a certificate with a new P-256 key.
    pub(super) async fn issue(self) -> Result<(Issued, PrivateKey), AcmeError> {
        let identifiers: Vec<Identifier> = self.names.iter().cloned().map(Identifier::Dns).collect();
        let mut wanted = NewOrder::new(&identifiers);
        if let Some(old) = &self.replaces {
            wanted = wanted.replaces(old.clone());
        }
        let mut order = self.account.new_order(&wanted).await?;
        tracing::debug!(order = order.url(), names = ?self.names, "certificate ordered");
        self.prove(&mut order).await?;

        let key = PrivateKey::generate_async(KeyType::EcP256).await?;
        let request = csr::create(&key, CsrSubject::empty(), None, self.names)?;
        order.finalize_csr(&request).await?;
        self.wait_for(&mut order, OrderStatus::Valid).await?;
        let pem = order.certificate().await?;
        let pem = pem.ok_or_else(|| AcmeError::Refused("the order is valid but has no certificate".to_owned()))?;
        let mut chain = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CHAIN + 1) {
            chain.push(certificate.map_err(|error| AcmeError::Certificate(error.to_string()))?);
        }
        let issued = Issued::new(chain, &key, self.names, self.clock.now())?;
        Ok((issued, key))
    }

    /// Answers the challenge of every name that is not proven yet, until the order is ready.
    async fn prove(&self, order: &mut Order) -> Result<(), AcmeError> {
        let challenge_name = self.kind.name();
        let mut answered = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let name = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => return Err(AcmeError::Refused(format!("the authorization of `{name}` is {other:?}"))),
            }
            let challenge = authorization.challenge(self.kind.acme());
            let mut challenge =
                challenge.ok_or_else(|| AcmeError::NotOffered { name: shown(&name), challenge: challenge_name })?;
            let key_authorization = challenge.key_authorization();
            answered.push(self.challenges.answer(self.kind, &name, &challenge.token, &key_authorization)?);
            if challenge.status == ChallengeStatus::Pending {
                challenge.set_ready().await?;
            }
        }
        // The answers stay until the certificate authority has seen them all.
        self.wait_for(order, OrderStatus::Ready).await
    }

    /// Looks at the order until it has got that far.
    async fn wait_for(&self, order: &mut Order, status: OrderStatus) -> Result<(), AcmeError> {
        let mut pause = FIRST_LOOK;
        loop {
            let now = order.state().status;
            if now == status || now == OrderStatus::Valid {
                return Ok(());
            }
            if now == OrderStatus::Invalid {
                return Err(self.why_invalid(order).await);
            }
            let asked = self.directory.take_retry_after().map(|at| at - self.clock.now());
            let wait = asked.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default();
            self.clock.sleep(pause.max(wait)).await;
            pause = (pause * 2).min(LAST_LOOK);
            order.refresh().await?;
        }
    }

    /// The problem of the challenge that failed.
    async fn why_invalid(&self, order: &mut Order) -> AcmeError {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else { continue };
            if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
                return unproven(&shown(&state.identifier().to_string()), self.kind.name(), problem);
            }
        }
        match &order.state().error {
            Some(problem) => AcmeError::from(problem),
            None => AcmeError::Refused("the order became invalid without a reason".to_owned()),
        }
    }
}
