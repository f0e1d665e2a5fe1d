//! HTTPS clients towards bundle endpoints: one for each relationship and version of what its endpoint is verified with,
//! so that neither a connection nor a TLS session outlives the trust it began with. Notifications go the same way out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use federation_specs::{
    bundle::{Bundle, BundleSet},
    id::SpiffeId,
};
use ipnet::IpNet;
use service_kit::{
    clock::SharedClock,
    fetch::{AddressGuard, FetchError, Fetcher, Network, Poster},
    tls::{BundleCell, PeerPolicy, ServerTrust, TlsError, WebRoots},
};
use time::OffsetDateTime;

use crate::settings::NetworkSettings;

/// How long the system's certificate authorities are kept before they are read again.
const SYSTEM_ROOTS_KEPT: Duration = Duration::from_secs(60 * 60);

/// Sets of certificate authorities kept to be shared by relationships that name the same.
const MAX_SHARED_ROOTS: usize = 1024;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The TLS configuration cannot be made, for example of an unusable `ca_file`.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] TlsError),
    /// The client cannot be made.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// What an endpoint is verified with.
#[derive(Debug, Clone)]
pub enum Verification {
    /// A certificate of the web, signed under these authorities.
    Web(WebRoots),
    /// An X509-SVID with this SPIFFE ID, signed under this bundle.
    Spiffe(SpiffeId, Arc<Bundle>),
}

/// Enough of a verification to tell whether it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Version {
    System(OffsetDateTime),
    Pem([u8; 32]),
    Spiffe(SpiffeId, Arc<Bundle>),
}

/// The client of one endpoint, made when it is needed and made again when the trust changes.
#[derive(Debug, Default)]
pub struct Client {
    /// Boxed: most relationships wait, with a client or without.
    current: Option<Box<(Version, Vec<IpNet>, Fetcher)>>,
}

impl Client {
    /// Says when the next fetch comes, see [`Fetcher::rest`].
    pub fn rest(&self, next: Duration) {
        if let Some(current) = &self.current {
            current.2.rest(next);
        }
    }
}

/// Makes clients. Shared by everything that fetches.
#[derive(Debug)]
pub struct Clients {
    network: Network,
    allowed: Vec<IpNet>,
    clock: SharedClock,
    system: Mutex<Option<(OffsetDateTime, ServerTrust)>>,
    pem: Mutex<HashMap<[u8; 32], ServerTrust>>,
}

impl Clients {
    /// Clients that go this way.
    pub fn new(settings: &NetworkSettings, clock: SharedClock) -> Self {
        Self {
            network: Network::new(&settings.nameservers, settings.proxy.clone(), Arc::clone(&clock)),
            allowed: settings.allow_addresses.clone(),
            clock,
            system: Mutex::default(),
            pem: Mutex::default(),
        }
    }

    /// The client in `slot`, if it was made for this verification and these networks; a new one otherwise, with which
    /// everything of the old one ends.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn client<'a>(
        &self,
        slot: &'a mut Client,
        verification: &Verification,
        allowed: &[IpNet],
    ) -> Result<&'a Fetcher, ClientError> {
        let (version, trust) = match verification {
            Verification::Web(WebRoots::System) => {
                let (read_at, trust) = self.system()?;
                (Version::System(read_at), Some(trust))
            }
            Verification::Web(WebRoots::Pem(pem)) => (Version::Pem(digest(pem)), None),
            Verification::Spiffe(id, bundle) => (Version::Spiffe(id.clone(), Arc::clone(bundle)), None),
        };
        let fits = slot.current.as_ref().is_some_and(|current| current.0 == version && current.1 == allowed);
        if !fits {
            slot.current = None;
            let trust = match (trust, verification) {
                (Some(trust), _) => trust,
                (None, Verification::Web(roots)) => self.pem(&version, roots)?,
                (None, Verification::Spiffe(id, bundle)) => {
                    let bundles: BundleSet = [Arc::clone(bundle)].into_iter().collect();
                    let policy = PeerPolicy::Exactly(id.clone());
                    ServerTrust::spiffe(Arc::new(BundleCell::new(bundles)), policy, Arc::clone(&self.clock))
                }
            };
            let guard = AddressGuard::new(self.allowed.iter().chain(allowed).copied());
            let fetcher = Fetcher::new(self.network.clone(), trust, guard)?;
            slot.current = Some(Box::new((version, allowed.to_vec(), fetcher)));
        }
        match &slot.current {
            Some(current) => Ok(&current.2),
            None => Err(ClientError::Tls(TlsError::Roots { reason: "they are gone".to_owned() })),
        }
    }

    /// A client that posts to servers with a certificate of the web under `roots`, at public addresses and those
    /// `allowed`. What partners may have besides is not for it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn poster(&self, roots: &WebRoots, allowed: &[IpNet], deadline: Duration) -> Result<Poster, ClientError> {
        let trust = match roots {
            WebRoots::System => self.system()?.1,
            WebRoots::Pem(_) => ServerTrust::web(roots, Arc::clone(&self.clock))?,
        };
        let guard = AddressGuard::new(allowed.iter().copied());
        Ok(Poster::new(self.network.clone(), trust, guard, deadline)?)
    }

    /// The system's authorities, which are many and change seldom: read once an hour.
    fn system(&self) -> Result<(OffsetDateTime, ServerTrust), TlsError> {
        let now = self.clock.now();
        let mut cached = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read_at, trust)) = &*cached
            && (*read_at..*read_at + SYSTEM_ROOTS_KEPT).contains(&now)
        {
            return Ok((*read_at, trust.clone()));
        }
        let trust = ServerTrust::web(&WebRoots::System, Arc::clone(&self.clock))?;
        *cached = Some((now, trust.clone()));
        Ok((now, trust))
    }

    /// Authorities given as PEM, parsed once for all relationships that name the same.
    fn pem(&self, version: &Version, roots: &WebRoots) -> Result<ServerTrust, TlsError> {
        let parse = || ServerTrust::web(roots, Arc::clone(&self.clock));
        let Version::Pem(digest) = version else { return parse() };
        let mut shared = self.pem.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trust) = shared.get(digest) {
            return Ok(trust.clone());
        }
        let trust = parse()?;
        if shared.len() == MAX_SHARED_ROOTS {
            shared.clear();
        }
        shared.insert(*digest, trust.clone());
        Ok(trust)
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}
