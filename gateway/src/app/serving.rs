//! Wiring of what is served: what was served before, sources, listeners.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use axum::Router;
use federation_specs::id::SpiffeId;
use service_kit::tls::SvidSource;

use super::{Error, LISTENERS, Parts, SOURCE, gauges};
use crate::{
    http::{Routes, public_router, rate_limiter},
    identity::WorkloadIdentity,
    issuer_client::IssuerClient,
    listeners::{
        Certificates, Listener, ListenerError, ListenerSetup,
        acme::Acme,
        endpoint_identity::{EndpointIdentity, issuer::Minted, workload_api::FromWorkloadApi},
    },
    publish::{PublisherStatuses, Runner, connector},
    readiness::Gathered,
    served::{ServedDomain, bundle_map::BundleMap},
    settings::{EndpointSvidSettings, SourceSettings, SpiffeListener, WebCertificate},
    source::{
        BundleSource, Follower,
        file::FileSource,
        issuer::IssuerSource,
        url::{UrlEndpoint, UrlSource},
        workload_api::WorkloadApiSource,
    },
    store::{Store, StoreError},
};

const WEB: &str = "https_web";
const SPIFFE: &str = "https_spiffe";

/// What metrics call the web's certificate.
const CERTIFICATE: &str = "web";

/// Identities already followed, by the Workload API's socket.
pub(super) type Identities = Vec<(PathBuf, Arc<WorkloadIdentity>)>;

/// X509-SVIDs by the TLS server names that select them.
type SpiffeCertificates = Vec<(Vec<String>, Arc<dyn SvidSource>)>;

/// Serves what was served before the restart, and remembers what each source gave.
pub(super) async fn restore(domain: &ServedDomain, store: &Store) -> Result<(), StoreError> {
    let trust_domain = domain.name();
    let unreadable = |error: StoreError| match error {
        // Its sources will give it again.
        StoreError::Unreadable { .. } => {
            tracing::warn!(%trust_domain, %error, "stored own bundle not used");
            Ok(())
        }
        error => Err(error),
    };
    let mut known = Vec::new();
    match store.sources(trust_domain).await {
        Ok(sources) => known = sources,
        Err(error) => unreadable(error)?,
    }
    let configured: Vec<String> = domain.settings().sources.iter().map(SourceSettings::key).collect();
    let nothing_known = known.is_empty();
    for (key, record) in known {
        if configured.contains(&key) {
            domain.sources().restore(&key, record);
        } else {
            store.forget_source(trust_domain, &key).await?;
        }
    }
    match store.served(trust_domain).await {
        Ok(None) => {}
        Ok(Some(record)) => {
            if let Err(error) = domain.publish(&record.bundle, record.changed_at) {
                tracing::warn!(%trust_domain, %error, "stored own bundle not served");
            }
            if let Some(published) = domain.current() {
                domain.stored(&published.digest);
            }
            // A store from before sources were kept one by one.
            if let ([only], true) = (configured.as_slice(), nothing_known) {
                domain.sources().restore_unsaved(only, record.bundle);
            }
            domain.sources().published();
        }
        Err(error) => unreadable(error)?,
    }
    Ok(())
}

impl Parts {
    /// Binds the public listeners; answers their addresses.
    pub(super) async fn listeners(
        &mut self,
        clients: &[IssuerClient],
    ) -> Result<(Option<SocketAddr>, Option<SocketAddr>), Error> {
        let latch = self.readiness.latch(LISTENERS);
        let spiffe = self.settings.https_spiffe.clone();
        let shared = self.settings.shares_listener();
        let (endpoints, identities) = match &spiffe {
            Some(_) => self.endpoints(clients, shared),
            None => Default::default(),
        };
        let mut bound = Vec::new();
        let (mut https_web, mut acme) = (None, None);
        if self.settings.https_web.is_some() {
            let identities = if shared { identities.as_slice() } else { &[] };
            if let Some((listener, certificate)) = self.bind_web(identities).await? {
                https_web = Some(listener.address());
                bound.push(listener);
                acme = certificate;
            }
        }
        let mut https_spiffe = https_web.filter(|_| shared);
        if let Some(settings) = spiffe.filter(|_| !shared)
            && let Some(listener) = self.bind_spiffe(settings, &identities).await?
        {
            https_spiffe = Some(listener.address());
            bound.push(listener);
        }
        let items = endpoints.iter().map(|endpoint| endpoint.id().to_string());
        let health = Gathered::new(latch, items.chain(acme.as_ref().map(Acme::health_item)));
        if let Some(acme) = acme {
            if let Some(listener) = acme.http_01().await? {
                self.tasks.spawn("http_01 listener", listener.run(self.shutdown.clone()));
            }
            self.tasks.spawn("acme", acme.run(health.clone(), self.shutdown.clone()));
        }
        for endpoint in endpoints {
            self.tasks.spawn("endpoint identity", endpoint.run(health.clone(), self.shutdown.clone()));
        }
        for listener in bound {
            self.tasks.spawn(listener.name(), listener.run(self.shutdown.clone()));
        }
        Ok((https_web, https_spiffe))
    }

    /// One identity for each endpoint ID, whichever domains it is presented for, and the TLS server names that select
    /// it. On a shared listener only the names given in the configuration do: any other belongs to the web.
    fn endpoints(
        &self,
        clients: &[IssuerClient],
        shared: bool,
    ) -> (Vec<Box<dyn EndpointIdentity>>, SpiffeCertificates) {
        let mut endpoints: Vec<Box<dyn EndpointIdentity>> = Vec::new();
        let mut identities: SpiffeCertificates = Vec::new();
        let mut known: BTreeMap<SpiffeId, usize> = BTreeMap::new();
        for domain in self.served.iter() {
            let settings = domain.settings();
            let Some(id) = settings.endpoint_id.clone() else { continue };
            let names = settings.server_names.iter().skip(usize::from(shared)).cloned();
            if let Some((held, _)) = known.get(&id).and_then(|index| identities.get_mut(*index)) {
                held.extend(names);
                continue;
            }
            let listener = if shared { WEB } else { SPIFFE };
            let metrics = self.metrics.renewals(listener, id.as_str());
            let clock = Arc::clone(&self.clock);
            let endpoint: Box<dyn EndpointIdentity> = match &settings.endpoint_svid {
                EndpointSvidSettings::WorkloadApi { socket } => {
                    Box::new(FromWorkloadApi::new(id.clone(), socket.clone(), metrics, clock))
                }
                EndpointSvidSettings::Issuer => {
                    let signer = self.served.get(id.trust_domain());
                    let client = clients.iter().find(|client| client.trust_domain() == id.trust_domain());
                    // The settings were checked: both are there.
                    let (Some(signer), Some(client)) = (signer, client) else { continue };
                    let (signer, client, data_dir) = (Arc::clone(signer), client.clone(), &self.settings.data_dir);
                    let minted =
                        Minted::new(id.clone(), signer, domain.name().as_str(), client, data_dir, metrics, clock);
                    minted.restore();
                    Box::new(minted)
                }
            };
            let cell = endpoint.cell();
            let watched = Arc::clone(&cell);
            gauges::watch_certificate(
                self.metrics.registry(),
                listener,
                id.as_str(),
                Arc::clone(&self.clock),
                move || watched.current().map(|identity| identity.not_after()),
            );
            known.insert(id, identities.len());
            identities.push((names.collect(), cell));
            endpoints.push(endpoint);
        }
        (endpoints, identities)
    }

    async fn bind_web(
        &self,
        identities: &[(Vec<String>, Arc<dyn SvidSource>)],
    ) -> Result<Option<(Listener, Option<Acme>)>, Error> {
        let Some(web) = &self.settings.https_web else { return Ok(None) };
        let limiter = rate_limiter(&self.settings.limits);
        let mut routes = Routes::bundles_and_oidc(&self.served, &self.metrics);
        if let Some(map) = &self.settings.bundle_map {
            routes = routes.with_bundle_map(&map.path, BundleMap::new(map, &self.served), &self.metrics);
        }
        let router = public_router(routes, limiter.clone(), self.metrics.rate_limited(WEB), Arc::clone(&self.clock));
        let (mut certificates, acme) = self.web_certificate(&web.certificate, router)?;
        if !identities.is_empty() {
            let routes = Routes::bundles(&self.served, &self.metrics);
            let router = public_router(routes, limiter, self.metrics.rate_limited(WEB), Arc::clone(&self.clock));
            certificates.add_spiffe(identities, &router, &self.clock)?;
        }
        let listener = Listener::bind(ListenerSetup {
            name: WEB,
            address: web.address,
            certificates,
            trusted_proxies: web.trusted_proxies.clone(),
            limits: self.settings.limits,
            metrics: self.metrics.listener(WEB),
            clock: Arc::clone(&self.clock),
        });
        Ok(Some((listener.await?, acme)))
    }

    fn web_certificate(
        &self,
        certificate: &WebCertificate,
        router: Router,
    ) -> Result<(Certificates, Option<Acme>), ListenerError> {
        let clock = || Arc::clone(&self.clock);
        match certificate {
            WebCertificate::Files { cert_file_path, key_file_path } => {
                let (certificates, handle) = Certificates::files(cert_file_path, key_file_path, router, &self.clock)?;
                gauges::watch_certificate(self.metrics.registry(), WEB, CERTIFICATE, clock(), move || {
                    handle.not_after()
                });
                Ok((certificates, None))
            }
            WebCertificate::Acme(settings) => {
                let renewals = self.metrics.renewals(WEB, CERTIFICATE);
                let acme = Acme::new((**settings).clone(), &self.settings.data_dir, renewals, clock())?;
                gauges::watch_certificate(self.metrics.registry(), WEB, CERTIFICATE, clock(), acme.expiry());
                Ok((Certificates::acme(&acme, router)?, Some(acme)))
            }
        }
    }

    async fn bind_spiffe(
        &self,
        settings: SpiffeListener,
        identities: &[(Vec<String>, Arc<dyn SvidSource>)],
    ) -> Result<Option<Listener>, Error> {
        let limiter = rate_limiter(&self.settings.limits);
        let routes = Routes::bundles(&self.served, &self.metrics);
        let router = public_router(routes, limiter, self.metrics.rate_limited(SPIFFE), Arc::clone(&self.clock));
        let Some(certificates) = Certificates::spiffe(identities, &router, &self.clock)? else { return Ok(None) };
        let listener = Listener::bind(ListenerSetup {
            name: SPIFFE,
            address: settings.address,
            certificates,
            trusted_proxies: settings.trusted_proxies,
            limits: self.settings.limits,
            metrics: self.metrics.listener(SPIFFE),
            clock: Arc::clone(&self.clock),
        });
        Ok(Some(listener.await?))
    }

    /// Starts a task for each source of each domain.
    pub(super) fn sources(&mut self, clients: &[IssuerClient], identities: &mut Identities) -> Result<(), Error> {
        let names = self.served.iter().map(|domain| domain.name().to_string());
        let health = Gathered::new(self.readiness.latch(SOURCE), names);
        let served = Arc::clone(&self.served);
        for domain in served.iter() {
            if domain.current().is_some() {
                health.ready(domain.name().as_str());
            }
            for (index, settings) in domain.settings().sources.iter().enumerate() {
                let Some(source) = self.source(domain, settings, clients, identities)? else { continue };
                let follower = Follower {
                    source,
                    index,
                    domain: Arc::clone(domain),
                    store: self.store.clone(),
                    clock: Arc::clone(&self.clock),
                    health: health.clone(),
                };
                self.tasks.spawn("bundle source", follower.run(self.shutdown.clone()));
            }
        }
        gauges::watch_served(self.metrics.registry(), Arc::clone(&self.served), Arc::clone(&self.clock));
        Ok(())
    }

    /// Starts a task for each publisher of each domain.
    pub(super) async fn publishers(&mut self) -> Result<PublisherStatuses, Error> {
        let statuses = PublisherStatuses::new(self.store.clone());
        let mut configured = Vec::new();
        for domain in self.served.iter() {
            for settings in &domain.settings().publishers {
                configured.push((domain.name().clone(), settings.name.clone()));
                let runner = Runner::new(
                    (settings.clone(), connector(domain, settings)),
                    Arc::clone(domain),
                    self.store.clone(),
                    Arc::clone(&self.clock),
                    self.metrics.clone(),
                    &statuses,
                );
                self.tasks.spawn("publisher", runner.await?.run(self.shutdown.clone()));
            }
        }
        self.store.keep_publications(&configured).await?;
        gauges::watch_publishers(self.metrics.registry(), statuses.clone(), Arc::clone(&self.clock));
        Ok(statuses)
    }

    fn source(
        &mut self,
        domain: &ServedDomain,
        settings: &SourceSettings,
        clients: &[IssuerClient],
        identities: &mut Identities,
    ) -> Result<Option<Box<dyn BundleSource>>, Error> {
        let name = domain.name().clone();
        let interval = domain.settings().poll_interval;
        let clock = Arc::clone(&self.clock);
        Ok(Some(match settings {
            SourceSettings::Issuer => {
                let Some(client) = clients.iter().find(|client| *client.trust_domain() == name) else {
                    return Ok(None);
                };
                Box::new(IssuerSource::new(client.clone(), interval, clock))
            }
            SourceSettings::ServerApi(address) => {
                let client = self.issuer_client(&name, address, identities)?;
                Box::new(IssuerSource::new(client, interval, clock))
            }
            SourceSettings::File { path, format } => {
                Box::new(FileSource::new(name, path.clone(), *format, interval, clock))
            }
            SourceSettings::WorkloadApi { socket } => Box::new(WorkloadApiSource::new(name, socket.clone(), clock)),
            SourceSettings::Url { url, profile, ca_file, bootstrap_bundle_file, allow_addresses } => {
                let endpoint = UrlEndpoint {
                    trust_domain: name,
                    url: url.clone(),
                    profile: profile.clone(),
                    ca_file: ca_file.clone(),
                    bootstrap_bundle_file: bootstrap_bundle_file.clone(),
                    allow_addresses: allow_addresses.clone(),
                };
                let (served, partners) = (Arc::clone(&self.served), Arc::clone(&self.partners));
                Box::new(UrlSource::new(
                    endpoint,
                    self.settings.refresh,
                    Arc::clone(&self.fetching),
                    served,
                    partners,
                    clock,
                ))
            }
        }))
    }
}
