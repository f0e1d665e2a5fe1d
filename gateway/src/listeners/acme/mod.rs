//! The certificate of the `https_web` listener from an ACME certificate authority (RFC 8555): ordered once, kept on
//! disk, renewed at two thirds of its life or when the certificate authority suggests it (RFC 9773). Whatever fails,
//! the certificate in use goes on.

mod account;
mod certificate;
pub(crate) mod challenge;
mod challenge_kind;
mod directory;
mod error;
mod http_01;
mod order;
mod schedule;
mod store;

use std::{path::Path, sync::Arc, time::Duration};

use instant_acme::{Account, CertificateIdentifier, Error};
use rustls::server::ResolvesServerCert;
use service_kit::{BoxError, clock::SharedClock, keys::PrivateKey, lifecycle::Shutdown};
use time::OffsetDateTime;

pub use self::error::AcmeError;
pub(crate) use self::http_01::Http01Listener;
use self::{
    certificate::{CertificateCell, Issued},
    challenge::Challenges,
    challenge_kind::ChallengeKind,
    directory::Directory,
    order::Request,
    schedule::Retry,
    store::AcmeStore,
};
use super::ListenerError;
use crate::{
    metrics::RenewalMetrics,
    readiness::Gathered,
    settings::{AcmeSettings, ChallengeSettings},
};

/// The listener whose certificate this is, and the name under which readiness tells about it.
const LISTENER: &str = "https_web";

/// Time for a whole order.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How often the certificate authority is asked when to renew, at least and at most.
const ASK_INTERVAL_FLOOR: Duration = Duration::from_secs(60 * 60);
const ASK_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);

/// One certificate over time.
pub(crate) struct Acme {
    settings: AcmeSettings,
    store: AcmeStore,
    cell: Arc<CertificateCell>,
    challenges: Arc<Challenges>,
    metrics: RenewalMetrics,
    clock: SharedClock,
    directory: Directory,
    /// The open account; opened anew after a failure.
    account: Option<Account>,
    renew_at: OffsetDateTime,
    /// When to ask the certificate authority when to renew; `None` if it does not tell.
    ask_at: Option<OffsetDateTime>,
    /// The window it told, and the point chosen in it.
    window: Option<(OffsetDateTime, OffsetDateTime)>,
    /// When the last renewal it suggested was done.
    suggested: Option<OffsetDateTime>,
    last_error: Option<String>,
}

/// What comes next.
enum Step {
    Renew,
    Ask,
    Expire,
}

impl Acme {
    /// Takes up the stored certificate if it still fits. Asks nobody yet.
    ///
    /// # Errors
    /// When the file with the directory's authorities cannot be used.
    pub(crate) fn new(
        settings: AcmeSettings,
        data_dir: &Path,
        metrics: RenewalMetrics,
        clock: SharedClock,
    ) -> Result<Self, AcmeError> {
        let directory = Directory::new(&settings, Arc::clone(&clock))?;
        let store = AcmeStore::new(data_dir, &settings.directory_url);
        let cell = Arc::new(CertificateCell::new(Arc::clone(&clock)));
        let now = clock.now();
        let (mut renew_at, mut ask_at) = (now, None);
        if let Some(issued) = store.certificate(&settings.domain_names, now) {
            tracing::info!(listener = LISTENER, not_after = %issued.not_after, "stored ACME certificate taken up");
            (renew_at, ask_at) = (schedule::renewal(&issued), Some(now));
            cell.set(issued);
        }
        Ok(Self {
            settings,
            store,
            cell,
            challenges: Arc::default(),
            metrics,
            clock,
            directory,
            account: None,
            renew_at,
            ask_at,
            window: None,
            suggested: None,
            last_error: None,
        })
    }

    /// Gives the current certificate to handshakes.
    pub(crate) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.cell) as Arc<dyn ResolvesServerCert>
    }

    /// When the current certificate expires.
    pub(crate) fn expiry(&self) -> impl Fn() -> Option<OffsetDateTime> + Send + Sync + 'static {
        let cell = Arc::clone(&self.cell);
        move || cell.current().map(|issued| issued.not_after)
    }

    /// The challenges a listener must answer, if they are answered in handshakes.
    pub(crate) fn handshake_challenges(&self) -> Option<&Arc<Challenges>> {
        matches!(self.settings.challenge, ChallengeSettings::TlsAlpn01).then_some(&self.challenges)
    }

    /// The listener of HTTP-01, if that is the challenge.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub(crate) async fn http_01(&self) -> Result<Option<Http01Listener>, ListenerError> {
        let ChallengeSettings::Http01(settings) = &self.settings.challenge else { return Ok(None) };
        let (challenges, clock) = (Arc::clone(&self.challenges), Arc::clone(&self.clock));
        Http01Listener::bind(settings, &self.settings, challenges, clock).await.map(Some)
    }

    /// The name under which readiness tells about it.
    pub(crate) fn health_item(&self) -> String {
        LISTENER.to_owned()
    }

    /// Orders and renews until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub(crate) async fn run(mut self, health: Gathered, shutdown: Shutdown) -> Result<(), BoxError> {
        let mut retry = Retry::new();
        self.report(&health);
        loop {
            let (at, step) = self.next();
            let wait = Duration::try_from(at - self.clock.now()).unwrap_or_default();
            let work = async {
                self.clock.sleep(wait).await;
                match step {
                    Step::Renew => Some(Box::pin(self.renew()).await),
                    Step::Ask => {
                        Box::pin(self.ask()).await;
                        None
                    }
                    Step::Expire => None,
                }
            };
            let outcome = tokio::select! {
                outcome = work => outcome,
                () = shutdown.cancelled() => return Ok(()),
            };
            match outcome {
                None => {}
                Some(Ok(())) => {
                    retry = Retry::new();
                    self.metrics.renewed();
                    self.last_error = None;
                }
                Some(Err(error)) => {
                    let now = self.clock.now();
                    self.account = None;
                    self.renew_at = retry.after(&error, now, self.directory.take_retry_after());
                    self.metrics.failed();
                    tracing::warn!(listener = LISTENER, %error, next = %self.renew_at, "ACME certificate not obtained");
                    self.last_error = Some(format!("{error}; next attempt at {}", in_words(self.renew_at)));
                }
            }
            self.report(&health);
        }
    }

    fn next(&self) -> (OffsetDateTime, Step) {
        let mut next = (self.renew_at, Step::Renew);
        // Nothing is asked while renewing fails: that has pauses of its own.
        if let Some(ask_at) = self.ask_at.filter(|at| *at < next.0 && self.last_error.is_none()) {
            next = (ask_at, Step::Ask);
        }
        let now = self.clock.now();
        match self.cell.current() {
            Some(issued) if issued.not_after > now && issued.not_after < next.0 => (issued.not_after, Step::Expire),
            _ => next,
        }
    }

    fn report(&self, health: &Gathered) {
        let now = self.clock.now();
        let current = self.cell.current();
        match (current.as_deref(), &self.last_error) {
            (Some(issued), None) if issued.not_after > now => health.ready(LISTENER),
            (Some(issued), Some(error)) if issued.not_after > now => {
                let until = in_words(issued.not_after);
                health.ready_but(LISTENER, Some(format!("certificate valid until {until} not renewed: {error}")));
            }
            (Some(issued), error) => {
                let error = error.as_deref().unwrap_or("renewal is under way");
                health.not_ready(LISTENER, &format!("certificate expired at {}: {error}", in_words(issued.not_after)));
            }
            (None, Some(error)) => health.not_ready(LISTENER, &format!("no certificate yet: {error}")),
            (None, None) => {
                health
                    .not_ready(LISTENER, &format!("no certificate yet: ordering from {}", self.settings.directory_url));
            }
        }
    }

    async fn renew(&mut self) -> Result<(), AcmeError> {
        let clock = Arc::clone(&self.clock);
        let ordered = tokio::select! {
            ordered = self.order() => ordered,
            () = clock.sleep(ORDER_TIMEOUT) => Err(AcmeError::Slow(ORDER_TIMEOUT)),
        };
        let (issued, key) = ordered?;
        if let Err(error) = self.store.keep_certificate(&issued, &key) {
            tracing::warn!(listener = LISTENER, %error, "ACME certificate not stored; a restart orders another one");
        }
        tracing::info!(
            listener = LISTENER, names = ?self.settings.domain_names, not_after = %issued.not_after,
            "ACME certificate obtained"
        );
        let now = self.clock.now();
        (self.renew_at, self.ask_at) = (schedule::renewal_of_new(&issued, now), Some(now));
        self.cell.set(issued);
        Ok(())
    }

    async fn order(&mut self) -> Result<(Issued, PrivateKey), AcmeError> {
        // Only a certificate authority that told a window knows about replacing; if it refuses, the next order does not
        // try that again.
        let suggested = self.window.take();
        let replaces = suggested.and_then(|_| self.identifier());
        self.suggested = suggested.map(|_| self.clock.now()).or(self.suggested);
        let account_error = match self.issue(replaces).await {
            Err(AcmeError::UnknownAccount(detail)) => detail,
            other => return other,
        };
        tracing::warn!(listener = LISTENER, account_error, "ACME account is gone; registering another one");
        self.store.forget_account()?;
        self.account = None;
        self.issue(None).await
    }

    async fn issue(
        &mut self,
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<(Issued, PrivateKey), AcmeError> {
        let account = self.account().await?;
        let request = Request {
            account: &account,
            directory: &self.directory,
            names: &self.settings.domain_names,
            kind: ChallengeKind::of(&self.settings.challenge),
            challenges: &self.challenges,
            replaces,
            clock: &self.clock,
        };
        request.issue().await
    }

    async fn account(&mut self) -> Result<Account, AcmeError> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        // Its authorities may have been replaced on disk.
        self.directory = Directory::new(&self.settings, Arc::clone(&self.clock))?;
        let account = account::open(&self.settings, &self.store, &self.directory).await?;
        self.account = Some(account.clone());
        Ok(account)
    }

    fn identifier(&self) -> Option<CertificateIdentifier<'static>> {
        let issued = self.cell.current()?;
        CertificateIdentifier::try_from(issued.chain().first()?).ok().map(CertificateIdentifier::into_owned)
    }

    /// Asks when to renew. Whatever goes wrong, the certificate is renewed at two thirds of its life.
    async fn ask(&mut self) {
        let now = self.clock.now();
        self.ask_at = Some(now + ASK_INTERVAL);
        let (Some(issued), Some(identifier)) = (self.cell.current(), self.identifier()) else {
            self.ask_at = None;
            return;
        };
        let info = match self.account().await {
            Ok(account) => account.renewal_info(&identifier).await.map_err(|error| match error {
                Error::Unsupported(_) => None,
                error => Some(AcmeError::from(error)),
            }),
            Err(error) => Err(Some(error)),
        };
        // That was about asking, not about ordering.
        self.directory.take_retry_after();
        match info {
            Ok((info, again)) => {
                let (start, end) = (info.suggested_window.start, info.suggested_window.end);
                self.ask_at = Some(now + again.clamp(ASK_INTERVAL_FLOOR, ASK_INTERVAL));
                if self.window != Some((start, end))
                    && let Some(at) = schedule::suggested(&issued, start, end, self.suggested)
                {
                    tracing::info!(listener = LISTENER, %start, %end, renew_at = %at, "renewal window suggested");
                    self.window = Some((start, end));
                    self.renew_at = at;
                }
            }
            Err(None) => self.ask_at = None,
            Err(Some(error)) => {
                self.account = None;
                tracing::debug!(%error, "the certificate authority did not tell when to renew");
            }
        }
    }
}

fn in_words(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0)
        .unwrap_or(at)
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| at.to_string())
}
