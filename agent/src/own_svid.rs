//! Keeping the agent's own SVID alive: renewal before it is half spent, attestation again where the attestor allows it,
//! and an orderly end when the issuer does not want this agent any more (SPIRE 1.15).

use std::{sync::Arc, time::Duration};

use federation_specs::id::SpiffeId;
use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, health::Latch, lifecycle::Shutdown};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::{
    cache::Cache,
    identity::{AgentSvid, IdentityError, OwnIdentity},
    issuer::{Denial, IssuerClient, IssuerError},
    node::attest::{AttestError, Attestation},
    rotation,
};

/// Time between two looks at the SVID.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Longest wait after failed renewals.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// Shortest wait after failed renewals, shortly before the SVID expires.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// Why the agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum OwnSvidError {
    /// Banned.
    #[error(
        "{id} was banned at the issuer; its SVID is deleted. To let this node in again, evict the agent (`entente issuer agent evict -spiffeID {id}`) and attest anew"
    )]
    Banned {
        /// The agent.
        id: SpiffeId,
    },
    /// The SVID is no longer accepted and the attestor works once only.
    #[error(
        "the SVID of {id} is no longer accepted: {reason}. It is deleted; start the agent again with new evidence, for example a new join token (`entente issuer token generate`)"
    )]
    Lost {
        /// The agent.
        id: SpiffeId,
        /// Why.
        reason: String,
    },
    /// The first attestation failed for good.
    #[error(transparent)]
    Begin(AttestError),
    /// Attesting again failed for good.
    #[error("this agent must attest again and cannot: {0}")]
    Attest(#[from] AttestError),
    /// The SVID could not be deleted.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Keeps the SVID of one agent.
#[derive(Debug)]
pub struct OwnSvidKeeper {
    /// The SVID.
    pub identity: Arc<OwnIdentity>,
    /// Whom to ask for renewal.
    pub issuer: Arc<IssuerClient>,
    /// How to attest again.
    pub attestation: Attestation,
    /// Where tainted authorities are known.
    pub cache: Arc<Cache>,
    /// Time.
    pub clock: SharedClock,
    /// Readiness.
    pub latch: Latch,
    /// Set once the agent has an SVID and a bundle.
    pub done: watch::Sender<bool>,
}

impl OwnSvidKeeper {
    /// Runs until the shutdown.
    ///
    /// # Errors
    /// [`OwnSvidError`] when the agent is banned or cannot attest again.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        tokio::select! {
            ended = self.keep() => ended.map_err(Into::into),
            () = shutdown.cancelled() => Ok(()),
        }
    }

    /// Attests, unless an earlier run left an SVID that still holds, and then sees to it that there is a bundle.
    async fn begin(&self) -> Result<(), AttestError> {
        let on_wait = |reason: &str| self.latch.not_ready(reason);
        if self.identity.current().is_none() {
            self.attestation.run(&self.identity, on_wait).await?;
        } else if self.identity.bundle().await.is_none() {
            self.attestation.complete(&self.identity, on_wait).await?;
        }
        self.latch.ready();
        self.done.send_replace(true);
        Ok(())
    }

    async fn keep(&self) -> Result<(), OwnSvidError> {
        self.begin().await.map_err(OwnSvidError::Begin)?;
        let mut denials = self.issuer.denials();
        let mut backoff = Backoff::new(CHECK_INTERVAL, MAX_WAIT);
        // A saved SVID may be due already, and a short-lived one is due before the interval is over.
        let mut wait = self.until_next_check();
        loop {
            tokio::select! {
                changed = denials.changed() => {
                    let denial = *denials.borrow_and_update();
                    if let (Ok(()), Some(denial)) = (changed, denial) {
                        self.denied(denial).await?;
                        // What was denied while this happened was denied for the old SVID.
                        denials.mark_unchanged();
                    }
                }
                () = self.clock.sleep(wait) => {
                    wait = match self.check().await? {
                        Checked::Fine => {
                            backoff.reset();
                            self.until_next_check()
                        }
                        Checked::Failed => self.retry_in(backoff.next()),
                    };
                }
            }
        }
    }

    fn until_next_check(&self) -> Duration {
        let now = self.clock.now();
        self.identity.current().map_or(CHECK_INTERVAL, |svid| rotation::until(svid.rotate_at, now).min(CHECK_INTERVAL))
    }

    /// The wait after a failure, shortened towards the end of the SVID: it must not run out while an issuer that has
    /// come back could renew it.
    fn retry_in(&self, wait: Duration) -> Duration {
        let now = self.clock.now();
        let left = self.identity.current().map_or(Duration::ZERO, |svid| rotation::until(svid.facts.not_after, now));
        if left.is_zero() { wait } else { wait.min((left / 4).max(MIN_WAIT)) }
    }

    /// Replaces the SVID if it is due.
    async fn check(&self) -> Result<Checked, OwnSvidError> {
        let Some(svid) = self.identity.current() else { return self.attest_again().await };
        let now = self.clock.now();
        if now < svid.rotate_at && !self.is_tainted(&svid) {
            return Ok(Checked::Fine);
        }
        if svid.reattestable { self.attest_again().await } else { self.renew(&svid, now).await }
    }

    /// Whether the SVID chains to an authority that was tainted after the SVID was made.
    fn is_tainted(&self, svid: &AgentSvid) -> bool {
        let tainted = &self.cache.snapshot().tainted;
        svid.facts
            .authority_key_ids
            .iter()
            .filter_map(|key_id| tainted.get(key_id))
            .any(|noticed| svid.facts.not_before < *noticed)
    }

    async fn attest_again(&self) -> Result<Checked, OwnSvidError> {
        match self.attestation.once(&self.identity).await {
            Ok(_) => {
                self.replaced();
                Ok(Checked::Fine)
            }
            Err(error) if error.is_temporary() => Ok(self.failed(&error)),
            Err(error) => Err(error.into()),
        }
    }

    async fn renew(&self, svid: &AgentSvid, now: OffsetDateTime) -> Result<Checked, OwnSvidError> {
        let renewed = async {
            let key = self.identity.prepare_key().await.map_err(RenewError::Identity)?;
            let chain = self.issuer.renew_agent(key.csr.clone()).await.map_err(RenewError::Issuer)?;
            self.identity.accept(key, chain, false).await.map_err(RenewError::Identity)
        };
        match renewed.await {
            Ok(svid) => {
                tracing::info!(id = %svid.facts.id, expires_at = %svid.facts.not_after, "agent SVID renewed");
                self.replaced();
                Ok(Checked::Fine)
            }
            Err(RenewError::Issuer(error)) => {
                // An expired SVID cannot be renewed once the issuer is there to refuse it. While it is away the agent goes
                // on serving what it has.
                if !svid.is_valid_at(now) && self.attestation.reaches_issuer(&self.identity).await {
                    let reason = format!("it expired at {}", svid.facts.not_after);
                    return Err(self.lost(&svid.facts.id, reason).await);
                }
                Ok(self.failed(&error))
            }
            Err(RenewError::Identity(error)) => Ok(self.failed(&error)),
        }
    }

    fn replaced(&self) {
        self.issuer.reconnect();
        self.latch.ready();
    }

    fn failed(&self, error: &dyn std::error::Error) -> Checked {
        tracing::warn!(%error, "agent SVID not replaced; trying again");
        if !self.identity.current().is_some_and(|svid| svid.is_valid_at(self.clock.now())) {
            self.latch.not_ready(format!("the agent SVID has expired and could not be replaced: {error}"));
        }
        Checked::Failed
    }

    async fn denied(&self, denial: Denial) -> Result<(), OwnSvidError> {
        let Some(svid) = self.identity.current() else { return Ok(()) };
        let id = svid.facts.id.clone();
        tracing::warn!(%id, reason = %denial, "the issuer denied this agent");
        match denial {
            Denial::Banned => {
                self.identity.forget_svid().await?;
                Err(OwnSvidError::Banned { id })
            }
            _ if svid.reattestable => self.attest_again().await.map(drop),
            denial => Err(self.lost(&id, denial.to_string()).await),
        }
    }

    async fn lost(&self, id: &SpiffeId, reason: String) -> OwnSvidError {
        match self.identity.forget_svid().await {
            Ok(()) => OwnSvidError::Lost { id: id.clone(), reason },
            Err(error) => error.into(),
        }
    }
}

enum Checked {
    Fine,
    Failed,
}

enum RenewError {
    Issuer(IssuerError),
    Identity(IdentityError),
}
