//! Partners beyond reproach, whose sequence grows with time.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

use crate::{domain::Domain, observe::relationships};

use super::{
    authority::{Keys, WebAuthority},
    server::{HTTP11, endpoint_url, good_server, relationship, serve},
    table::Profile,
};

/// How long each sequence number lasts.
pub const TICK: Duration = Duration::from_secs(1);

/// Several partners in one place. Dropping them closes their endpoints.
#[derive(Debug)]
pub struct GoodPartners {
    partners: Vec<GoodPartner>,
    manner: Arc<Manner>,
}

/// What all of them do.
#[derive(Debug)]
struct Manner {
    begin: Instant,
    /// A new key ID with each sequence number.
    rotates: bool,
    /// Connections are closed at once.
    away: watch::Sender<bool>,
}

#[derive(Debug)]
struct GoodPartner {
    keys: Arc<Keys>,
    profile: Profile,
    url: String,
    task: JoinHandle<()>,
}

impl GoodPartners {
    /// `count` of them, half with each profile, on free ports of loopback.
    pub async fn start(count: usize, web: &WebAuthority) -> Result<Self> {
        Self::start_with(count, web, false).await
    }

    /// The same with a new key ID for each sequence number, so that every bundle is another one to an issuer too.
    pub async fn start_rotating(count: usize, web: &WebAuthority) -> Result<Self> {
        Self::start_with(count, web, true).await
    }

    async fn start_with(count: usize, web: &WebAuthority, rotates: bool) -> Result<Self> {
        let manner = Arc::new(Manner { begin: Instant::now(), rotates, away: watch::Sender::new(false) });
        let mut partners = Vec::with_capacity(count);
        for index in 0..count {
            let profile = if index % 2 == 0 { Profile::HttpsWeb } else { Profile::HttpsSpiffe };
            let keys = Arc::new(Keys::create(&format!("good-{index}.example"))?);
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let url = endpoint_url(profile, listener.local_addr()?);
            let acceptor = TlsAcceptor::from(good_server(profile, web, &keys, HTTP11)?);
            let task = tokio::spawn(accept(listener, acceptor, Arc::clone(&keys), Arc::clone(&manner)));
            partners.push(GoodPartner { keys, profile, url, task });
        }
        Ok(Self { partners, manner })
    }

    /// The sequence number of every bundle at this moment.
    pub fn sequence(&self) -> u64 {
        self.manner.sequence()
    }

    /// Fails if the gateway is further behind one of them than `within`, or shows an error for it. Gives every
    /// relationship by trust domain.
    pub async fn check_fresh(&self, domain: &Domain, within: Duration) -> Result<HashMap<String, Value>> {
        let served = self.sequence();
        let now = relationships(domain).await?;
        for name in self.trust_domains() {
            let relationship = now.get(name).with_context(|| format!("no relationship {name}"))?;
            let held = relationship["held"]["sequence"].as_u64().unwrap_or_default();
            let behind = served.saturating_sub(held) * TICK.as_secs();
            ensure!(behind <= within.as_secs(), "{name} is {behind} s behind: {relationship:#}");
            ensure!(relationship["last_error"].is_null(), "{relationship:#}");
        }
        Ok(now)
    }

    /// Whether they are away from now on: nobody gets an answer then.
    pub fn away(&self, away: bool) {
        self.manner.away.send_replace(away);
    }

    /// The keys of the first of them.
    pub fn first_keys(&self) -> Result<&Keys> {
        Ok(&self.partners.first().context("no good partner")?.keys)
    }

    /// Their trust domains.
    pub fn trust_domains(&self) -> impl Iterator<Item = &str> {
        self.partners.iter().map(|partner| partner.keys.trust_domain())
    }

    /// A gateway's relationships with all of them; bootstrap bundles are written to `dir`.
    pub fn relationships(&self, web: &WebAuthority, dir: &Path) -> Result<Vec<Value>> {
        let all = self.partners.iter();
        all.map(|partner| relationship(partner.profile, &partner.url, web, &partner.keys, dir)).collect()
    }
}

impl Drop for GoodPartners {
    fn drop(&mut self) {
        for partner in &self.partners {
            partner.task.abort();
        }
    }
}

impl Manner {
    fn sequence(&self) -> u64 {
        1 + self.begin.elapsed().as_secs() / TICK.as_secs()
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, keys: Arc<Keys>, manner: Arc<Manner>) {
    while let Ok((stream, _)) = listener.accept().await {
        let away = *manner.away.borrow();
        if !away {
            tokio::spawn(answer(stream, acceptor.clone(), Arc::clone(&keys), Arc::clone(&manner)));
        }
    }
}

async fn answer(stream: TcpStream, acceptor: TlsAcceptor, keys: Arc<Keys>, manner: Arc<Manner>) {
    // A hint of a second asks for the gateway's shortest interval.
    let document = || {
        let sequence = manner.sequence();
        let bundle = if manner.rotates { keys.rotated_bundle(sequence, 1) } else { keys.bundle(sequence, 1) };
        bundle.to_string().into_bytes()
    };
    let mut away = manner.away.subscribe();
    tokio::select! {
        _ = serve(&acceptor, stream, document) => {}
        // Connections that are kept end as well.
        _ = away.wait_for(|away| *away) => {}
    }
}
