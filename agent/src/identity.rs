//! The agent's own identity: its X509-SVID, the key behind it, the bundle it trusts, and their place on disk.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use federation_specs::{
    bundle::{Bundle, BundleSet},
    id::{SpiffeId, TrustDomain},
};
use rustls_pki_types::CertificateDer;
use service_kit::{
    clock::SharedClock,
    csr::{self, CsrError, CsrSubject},
    keys::{KeyError, KeyManager, KeyType},
    tls::{BundleCell, SvidCell, TlsError, X509Identity},
};
use time::{Duration, OffsetDateTime};
use tokio::sync::Mutex;

use crate::{
    cache::svid::{ChainFacts, SvidError},
    rotation,
    saved::{AgentData, SavedError, SavedState},
};

/// Key manager IDs of the agent's key: one holds the key in use, the other the next one.
const KEY_SLOTS: [&str; 2] = ["agent-svid-A", "agent-svid-B"];

/// Kind of the agent's key.
const KEY_TYPE: KeyType = KeyType::EcP256;

/// The SVID counts as expired this long before its end, so that it does not expire on the way.
const EXPIRES_EARLY: Duration = Duration::SECOND;

/// Why an SVID of the agent could not be taken into use.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate is not what was asked for.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// The certificate is for an ID outside the trust domain's agents.
    #[error("the issuer gave this agent the ID {id}, which is not an ID of trust domain {trust_domain}")]
    ForeignId {
        /// ID in the certificate.
        id: SpiffeId,
        /// The agent's trust domain.
        trust_domain: TrustDomain,
    },
    /// The key manager failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signing request could not be made.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// Certificate and key cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The state could not be saved.
    #[error(transparent)]
    Saved(#[from] SavedError),
}

/// The SVID in use.
#[derive(Debug)]
pub struct AgentSvid {
    /// Certificates in DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Facts read from the chain.
    pub facts: ChainFacts,
    /// When it is due for replacement.
    pub rotate_at: OffsetDateTime,
    /// Whether the agent attests again instead of renewing.
    pub reattestable: bool,
    key_slot: &'static str,
}

impl AgentSvid {
    /// Whether it can be used at `now`.
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        now < self.facts.not_after - EXPIRES_EARLY
    }
}

/// A signing request for a new key, whose slot is taken into use with the certificate.
#[derive(Debug)]
pub struct PendingKey {
    /// The request in DER.
    pub csr: Vec<u8>,
    slot: &'static str,
    public_key: Vec<u8>,
}

/// Holds the agent's identity and keeps its copy on disk in step.
#[derive(Debug)]
pub struct OwnIdentity {
    trust_domain: TrustDomain,
    keys: Arc<dyn KeyManager>,
    saved: SavedState,
    clock: SharedClock,
    current: ArcSwapOption<AgentSvid>,
    /// What TLS connections present.
    pub tls_svid: Arc<SvidCell>,
    /// What TLS connections verify the issuer with.
    pub tls_bundles: Arc<BundleCell>,
    /// What the file holds, and the turn to change it.
    on_disk: Mutex<AgentData>,
}

impl OwnIdentity {
    /// The identity saved in the data folder, as far as it is still usable: an SVID that has expired or whose key is gone
    /// is left out.
    ///
    /// # Errors
    /// [`IdentityError`] if the saved state or the keys cannot be read.
    pub async fn load(
        trust_domain: TrustDomain,
        keys: Arc<dyn KeyManager>,
        saved: SavedState,
        clock: SharedClock,
    ) -> Result<Self, IdentityError> {
        let data = saved.load()?;
        let bundles = data.bundle.clone().map(Arc::new).into_iter().collect::<BundleSet>();
        let identity = Self {
            trust_domain,
            keys,
            saved,
            clock,
            current: ArcSwapOption::empty(),
            tls_svid: Arc::default(),
            tls_bundles: Arc::new(BundleCell::new(bundles)),
            on_disk: Mutex::new(data.clone()),
        };
        if !data.chain.is_empty() {
            identity.resume(&data).await?;
        }
        Ok(identity)
    }

    async fn resume(&self, data: &AgentData) -> Result<(), IdentityError> {
        let now = self.clock.now();
        let facts = ChainFacts::read(&data.chain)?;
        facts.check_start(now)?;
        let held = self.keys.list().await?;
        let slot = KEY_SLOTS
            .into_iter()
            .find(|slot| held.iter().any(|key| key.id == **slot && key.public_key.spki_der() == facts.public_key));
        let Some(key_slot) = slot else {
            tracing::warn!(id = %facts.id, "the key of the saved agent SVID is gone; attesting again");
            return Ok(());
        };
        let svid = self.svid(data.chain.clone(), facts, data.reattestable, key_slot);
        if svid.is_valid_at(now) {
            tracing::info!(id = %svid.facts.id, expires_at = %svid.facts.not_after, "going on with the saved agent SVID");
            self.take_into_use(svid).await?;
        } else {
            tracing::warn!(id = %svid.facts.id, expired_at = %svid.facts.not_after, "the saved agent SVID has expired; attesting again");
        }
        Ok(())
    }

    fn svid(&self, chain: Vec<Vec<u8>>, facts: ChainFacts, reattestable: bool, key_slot: &'static str) -> AgentSvid {
        AgentSvid { rotate_at: rotation::due(facts.not_before, facts.not_after), chain, facts, reattestable, key_slot }
    }

    async fn take_into_use(&self, svid: AgentSvid) -> Result<(), IdentityError> {
        let chain = svid.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let signer = self.keys.tls_signing_key(svid.key_slot).await?;
        let tls = X509Identity::with_signer(chain, signer)?;
        self.tls_svid.set(Arc::new(tls));
        self.current.store(Some(Arc::new(svid)));
        Ok(())
    }

    /// The agent's trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The SVID in use.
    pub fn current(&self) -> Option<Arc<AgentSvid>> {
        self.current.load_full()
    }

    /// The bundle last received or saved.
    pub async fn bundle(&self) -> Option<Bundle> {
        self.on_disk.lock().await.bundle.clone()
    }

    /// Makes a key for the next SVID, beside the one in use, and a signing request for it.
    ///
    /// The key of a first attestation is kept until that is over: should its answer be lost, even by the end of this
    /// process, the issuer knows by the key that the same agent asks again, and a join token is not lost with it.
    ///
    /// # Errors
    /// [`IdentityError`] if the key manager fails.
    pub async fn prepare_key(&self) -> Result<PendingKey, IdentityError> {
        let in_use = self.current().map(|svid| svid.key_slot);
        let [first, second] = KEY_SLOTS;
        let slot = if in_use == Some(first) { second } else { first };
        let attested_before = !self.on_disk.lock().await.chain.is_empty();
        let public_key = match self.keys.get(slot).await {
            Ok(kept) if !attested_before && kept.key_type == KEY_TYPE => kept.public_key,
            Ok(_) | Err(KeyError::NotFound { .. }) => self.keys.generate(slot, KEY_TYPE).await?,
            Err(error) => return Err(error.into()),
        };
        let csr = csr::create_with_manager(self.keys.as_ref(), slot, CsrSubject::default(), None, &[]).await?;
        Ok(PendingKey { csr, slot, public_key: public_key.spki_der().to_vec() })
    }

    /// Takes the certificate for a prepared key into use and saves it. From the return on, a restart goes on with it.
    ///
    /// # Errors
    /// [`IdentityError`] if it is not what was asked for or cannot be saved; the present SVID then stays in use.
    pub async fn accept(
        &self,
        key: PendingKey,
        chain: Vec<Vec<u8>>,
        reattestable: bool,
    ) -> Result<Arc<AgentSvid>, IdentityError> {
        let facts = ChainFacts::read(&chain)?;
        facts.check(None, &key.public_key, self.clock.now())?;
        if !facts.id.is_member_of(&self.trust_domain) || facts.id.is_server() {
            return Err(IdentityError::ForeignId { id: facts.id, trust_domain: self.trust_domain.clone() });
        }
        let svid = self.svid(chain, facts, reattestable, key.slot);
        {
            let mut on_disk = self.on_disk.lock().await;
            let data = AgentData { chain: svid.chain.clone(), reattestable, bundle: on_disk.bundle.clone() };
            self.store(&mut on_disk, data).await?;
        }
        self.take_into_use(svid).await?;
        self.current().ok_or_else(|| SvidError::Empty.into())
    }

    /// Takes a received bundle of the own trust domain into use and saves it if its X.509 authorities changed.
    ///
    /// # Errors
    /// [`IdentityError::Saved`] if it cannot be saved; it is in use all the same.
    pub async fn set_bundle(&self, bundle: &Bundle) -> Result<(), IdentityError> {
        self.tls_bundles.set(Arc::new(std::iter::once(Arc::new(bundle.clone())).collect()));
        let mut on_disk = self.on_disk.lock().await;
        let ders = |bundle: &Bundle| -> Vec<Vec<u8>> {
            bundle.x509_authorities().iter().map(|authority| authority.der().to_vec()).collect()
        };
        if on_disk.bundle.as_ref().is_some_and(|held| ders(held) == ders(bundle)) {
            return Ok(());
        }
        let data = AgentData { bundle: Some(bundle.clone()), ..on_disk.clone() };
        self.store(&mut on_disk, data).await
    }

    /// Deletes the SVID, in use and on disk, and its keys; the bundle stays.
    ///
    /// # Errors
    /// [`IdentityError`] if a file cannot be written.
    pub async fn forget_svid(&self) -> Result<(), IdentityError> {
        self.tls_svid.clear();
        self.current.store(None);
        let mut on_disk = self.on_disk.lock().await;
        let data = AgentData { chain: Vec::new(), reattestable: false, bundle: on_disk.bundle.clone() };
        self.store(&mut on_disk, data).await?;
        for slot in KEY_SLOTS {
            match self.keys.remove(slot).await {
                Ok(()) | Err(KeyError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn store(&self, on_disk: &mut AgentData, data: AgentData) -> Result<(), IdentityError> {
        let (saved, copy) = (self.saved.clone(), data.clone());
        tokio::task::spawn_blocking(move || saved.store(&copy)).await.unwrap_or_else(|_| {
            let source = std::io::Error::other("writing was cut off");
            Err(SavedError::Write { path: self.saved.path().to_path_buf(), source })
        })?;
        *on_disk = data;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use federation_specs::x509_svid::CertificateRequest;
    use service_kit::{
        clock::{Clock, ManualClock},
        keys::{disk::DiskKeyManager, memory::MemoryKeyManager},
        tls::{BundleSource, SvidSource},
    };

    use super::*;
    use crate::testing::authority::{Authority, START};

    struct Setup {
        folder: tempfile::TempDir,
        clock: ManualClock,
        authority: Authority,
    }

    impl Setup {
        fn new() -> Self {
            let clock = ManualClock::new(START);
            Self { folder: tempfile::tempdir().unwrap(), clock, authority: Authority::new("cloud.example") }
        }

        async fn identity(&self) -> Result<OwnIdentity, IdentityError> {
            let trust_domain = TrustDomain::parse("cloud.example").unwrap();
            let keys = DiskKeyManager::open(self.folder.path().join("keys.json")).unwrap();
            let saved = SavedState::new(self.folder.path(), trust_domain.clone());
            OwnIdentity::load(trust_domain, Arc::new(keys), saved, Arc::new(self.clock.clone())).await
        }

        fn sign(&self, key: &PendingKey, id: &str) -> Vec<Vec<u8>> {
            let request = CertificateRequest::from_der(&key.csr).unwrap();
            request.verify_signature().unwrap();
            let now = self.clock.now();
            let id = SpiffeId::parse(id).unwrap();
            vec![self.authority.sign(&id, request.public_key(), now - Duration::seconds(10), now + Duration::HOUR)]
        }
    }

    const ID: &str = "spiffe://cloud.example/spire/agent/join_token/t";

    #[tokio::test]
    async fn a_restart_goes_on_with_the_saved_svid_and_key() {
        let setup = Setup::new();
        let identity = setup.identity().await.unwrap();
        assert!(identity.current().is_none() && identity.tls_svid.current().is_none());
        let key = identity.prepare_key().await.unwrap();
        let chain = setup.sign(&key, ID);
        identity.accept(key, chain.clone(), true).await.unwrap();
        identity.set_bundle(&setup.authority.bundle()).await.unwrap();

        // A key made for a renewal that never came to an end does not disturb the SVID in use.
        let unfinished = identity.prepare_key().await.unwrap();
        assert_eq!(unfinished.slot, "agent-svid-B");
        drop((identity, unfinished));

        let again = setup.identity().await.unwrap();
        let svid = again.current().unwrap();
        assert_eq!((svid.chain.clone(), svid.reattestable, svid.key_slot), (chain, true, "agent-svid-A"));
        assert_eq!(again.tls_svid.current().unwrap().id().to_string(), ID);
        let bundles = again.tls_bundles.bundles();
        assert!(bundles.get(again.trust_domain()).unwrap().x509_authorities().len() == 1);

        let key = again.prepare_key().await.unwrap();
        let chain = setup.sign(&key, ID);
        again.accept(key, chain, true).await.unwrap();
        assert_eq!(setup.identity().await.unwrap().current().unwrap().key_slot, "agent-svid-B");
    }

    #[tokio::test]
    async fn the_key_of_a_first_attestation_is_kept_until_it_is_over() {
        let setup = Setup::new();
        let unanswered = setup.identity().await.unwrap().prepare_key().await.unwrap();
        let identity = setup.identity().await.unwrap();
        let again = identity.prepare_key().await.unwrap();
        assert_eq!((again.slot, &again.public_key), (unanswered.slot, &unanswered.public_key));
        let chain = setup.sign(&again, ID);
        identity.accept(again, chain, false).await.unwrap();

        // From then on every SVID has a new key, also after the SVID was lost.
        let next = identity.prepare_key().await.unwrap();
        assert_ne!(next.public_key, unanswered.public_key);
        assert_ne!(identity.prepare_key().await.unwrap().public_key, next.public_key);
        identity.forget_svid().await.unwrap();
        let anew = identity.prepare_key().await.unwrap();
        assert_ne!(anew.public_key, unanswered.public_key);
        assert_ne!(anew.public_key, next.public_key);
    }

    #[tokio::test]
    async fn an_expired_svid_or_a_lost_key_is_not_used() {
        let setup = Setup::new();
        let identity = setup.identity().await.unwrap();
        let key = identity.prepare_key().await.unwrap();
        let chain = setup.sign(&key, ID);
        identity.accept(key, chain, false).await.unwrap();

        let trust_domain = TrustDomain::parse("cloud.example").unwrap();
        let saved = SavedState::new(setup.folder.path(), trust_domain.clone());
        let keyless =
            OwnIdentity::load(trust_domain, Arc::new(MemoryKeyManager::new()), saved, Arc::new(setup.clock.clone()));
        assert!(keyless.await.unwrap().current().is_none());

        setup.clock.advance(std::time::Duration::from_secs(3600));
        assert!(setup.identity().await.unwrap().current().is_none());
        setup.clock.set(setup.clock.now() - Duration::hours(2));
        let error = setup.identity().await.unwrap_err().to_string();
        assert!(error.starts_with("the system clock (") && error.contains(") is before the start of"), "{error}");
    }

    #[tokio::test]
    async fn refuses_what_was_not_asked_for_and_keeps_what_it_has() {
        let setup = Setup::new();
        let identity = setup.identity().await.unwrap();
        let key = identity.prepare_key().await.unwrap();
        let chain = setup.sign(&key, ID);
        identity.accept(key, chain.clone(), false).await.unwrap();

        let key = identity.prepare_key().await.unwrap();
        assert!(matches!(
            identity.accept(key, chain.clone(), false).await,
            Err(IdentityError::Svid(SvidError::OtherKey))
        ));
        let key = identity.prepare_key().await.unwrap();
        let foreign = setup.sign(&key, "spiffe://other.example/spire/agent/x");
        assert!(matches!(identity.accept(key, foreign, false).await, Err(IdentityError::ForeignId { .. })));
        assert_eq!(identity.current().unwrap().chain, chain);

        identity.forget_svid().await.unwrap();
        assert!(identity.current().is_none() && identity.tls_svid.current().is_none());
        assert!(setup.identity().await.unwrap().current().is_none());
    }
}
