//! One object in the memory of a server here, as a place: what the fakes of the clouds' storage have in common.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use axum::Router;
use federation_specs::bundle::Bundle;
use serde_json::Value;

use super::{conformance::Place, gate::Gate};

/// The object.
#[derive(Debug, Default)]
pub struct State {
    pub document: Option<Vec<u8>>,
    /// Changes with every write.
    pub version: u64,
    /// Nobody is let in.
    pub denied: bool,
}

/// The object, shared between the server and those who look behind it.
#[derive(Debug, Clone, Default)]
pub struct Object(Arc<Mutex<State>>);

impl Object {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    pub fn put(&mut self, document: &[u8]) {
        self.document = Some(document.to_vec());
        self.version += 1;
    }
}

/// What is different from one cloud to the next.
pub trait Cloud: Send + Sync {
    /// What the gateway is told when it is not let in.
    const DENIED: &'static str;

    /// Whether documents carry sequence numbers.
    const HAS_SEQUENCE: bool;

    /// The publisher's configuration, for a service at `http://address`.
    fn config(&self, address: std::net::SocketAddr) -> Value;

    /// The document the place should hold for a bundle.
    fn document(&self, bundle: &Bundle) -> Vec<u8>;
}

/// A service with one object, behind a gate.
pub struct Served<C> {
    pub cloud: C,
    pub object: Object,
    gate: Gate,
}

impl<C: Cloud> Served<C> {
    /// `router` answers for `object`.
    pub async fn start(cloud: C, object: Object, router: Router) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Gate::before(listener.local_addr().unwrap()).await;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { cloud, object, gate }
    }
}

#[async_trait]
impl<C: Cloud> Place for Served<C> {
    fn config(&self) -> Value {
        self.cloud.config(self.gate.address())
    }

    fn document(&self, bundle: &Bundle) -> Vec<u8> {
        self.cloud.document(bundle)
    }

    async fn held(&self) -> Option<Vec<u8>> {
        self.object.state().document.clone()
    }

    async fn version(&self) -> String {
        self.object.state().version.to_string()
    }

    async fn put(&self, document: &[u8]) {
        self.object.state().put(document);
    }

    async fn remove(&self) -> bool {
        self.object.state().document.take().is_some()
    }

    async fn deny(&self, denied: bool) -> &'static str {
        self.object.state().denied = denied;
        C::DENIED
    }

    async fn down(&self, down: bool) -> bool {
        self.gate.set_open(!down);
        true
    }

    fn has_sequence(&self) -> bool {
        C::HAS_SEQUENCE
    }
}
