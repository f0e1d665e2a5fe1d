//! Authorization in front of every service: the request path decides who may pass, before the request is read.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use federation_specs::{proto::types::permission_denied_details::Reason, x509_svid::VerifiedX509Svid};
use futures::future::BoxFuture;
use service_kit::clock::SharedClock;
use tonic::{Code, Status, codegen::http};
use tower::{Layer, Service};

use super::{
    caller::{Caller, Identity},
    permissions::{self, Lookup},
    status,
};
use crate::{
    node::Node,
    store::{Store, StoreError},
};

/// Decides who may call what.
#[derive(Debug, Clone)]
pub struct Authorizer {
    store: Store,
    access: Arc<super::Access>,
    clock: SharedClock,
}

/// Why the agent check failed.
enum AgentCheck {
    Denied(Reason),
    Failed(Status),
}

impl Authorizer {
    /// Decides by the table, by `access` and by the stored entries and agents.
    pub fn new(store: Store, access: super::Access, clock: SharedClock) -> Self {
        Self { store, access: Arc::new(access), clock }
    }

    /// A layer for the listener on the Unix socket (`local`) or for the one over TLS.
    pub fn layer(&self, local: bool) -> AuthorizeLayer {
        AuthorizeLayer { authorizer: self.clone(), local }
    }

    /// Permits or refuses `caller` on `full_method`; on success the caller carries what the decision found.
    ///
    /// The order is: anyone, local, listed admin, admin or downstream by entry, agent.
    async fn decide(
        &self,
        access: permissions::Access,
        full_method: &str,
        mut caller: Caller,
    ) -> Result<Caller, Status> {
        if access.anyone || (access.local && caller.is_local()) {
            return Ok(caller);
        }
        let denial = format!("authorization denied for method {full_method}");
        let Identity::Svid(svid) = caller.identity.clone() else {
            tracing::warn!(method = full_method, caller = caller.label(), "call denied");
            return Err(Status::permission_denied(denial));
        };
        // A connection may outlive the SVID it was opened with; the rights do not.
        let is_current = svid.not_after() > self.clock.now();
        if is_current && access.admin && self.access.admin_ids.contains(svid.id()) {
            return Ok(caller);
        }
        if is_current && (access.admin || access.downstream) {
            let entries = self.store.entries_of(svid.id()).await;
            let entries = entries.map_err(|error| status::internal("failed to fetch registration entries", &error))?;
            let is_admin = access.admin && entries.iter().any(|entry| entry.admin);
            let is_downstream = access.downstream && entries.iter().any(|entry| entry.downstream);
            if is_admin || is_downstream {
                return Ok(caller);
            }
        }
        let mut reason = None;
        if access.agent {
            match self.check_agent(&svid).await {
                Ok(node) => {
                    caller.agent = Some(node);
                    return Ok(caller);
                }
                Err(AgentCheck::Failed(failure)) => return Err(failure),
                Err(AgentCheck::Denied(why)) => reason = Some(why),
            }
        }
        tracing::warn!(method = full_method, caller = %svid.id(), ?reason, "call denied");
        Err(match reason {
            Some(reason) => status::denied(&denial, reason),
            None => Status::permission_denied(denial),
        })
    }

    /// The agent behind an X509-SVID. The first use of a renewed SVID makes it the current one.
    async fn check_agent(&self, svid: &VerifiedX509Svid) -> Result<Arc<Node>, AgentCheck> {
        if svid.not_after() <= self.clock.now() {
            return Err(AgentCheck::Denied(Reason::AgentExpired));
        }
        let failed = |error| AgentCheck::Failed(status::internal("unable to look up agent information", &error));
        let node = self.store.get_node(svid.id()).await.map_err(failed)?;
        let Some(node) = node else { return Err(AgentCheck::Denied(Reason::AgentNotAttested)) };
        let serial = svid.serial_decimal();
        if node.is_banned() {
            Err(AgentCheck::Denied(Reason::AgentBanned))
        } else if node.serial_number == serial {
            Ok(Arc::new(node))
        } else if node.new_serial_number == serial {
            match self.store.promote_node(svid.id(), serial).await {
                // Another renewal or a ban may have come in between.
                Ok(node) if node.serial_number == serial => Ok(Arc::new(node)),
                Ok(node) if node.is_banned() => Err(AgentCheck::Denied(Reason::AgentBanned)),
                Ok(_) => Err(AgentCheck::Denied(Reason::AgentNotActive)),
                Err(StoreError::NotFound { .. }) => Err(AgentCheck::Denied(Reason::AgentNotActive)),
                Err(error) => Err(failed(error)),
            }
        } else {
            Err(AgentCheck::Denied(Reason::AgentNotActive))
        }
    }
}

/// Puts [`Authorize`] in front of a service.
#[derive(Debug, Clone)]
pub struct AuthorizeLayer {
    authorizer: Authorizer,
    local: bool,
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { inner, authorizer: self.authorizer.clone(), local: self.local }
    }
}

/// Lets a request through to the inner service only when its caller may call the method.
#[derive(Debug, Clone)]
pub struct Authorize<S> {
    inner: S,
    authorizer: Authorizer,
    local: bool,
}

impl<S, B, R> Service<http::Request<B>> for Authorize<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = http::Response<R>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let authorizer = self.authorizer.clone();
        let local = self.local;
        Box::pin(async move {
            let caller = match admit(&authorizer, local, &request).await {
                Ok(caller) => caller,
                Err(status) => return Ok(status.into_http()),
            };
            request.extensions_mut().insert(caller);
            inner.call(request).await
        })
    }
}

fn admit<'a, B>(
    authorizer: &'a Authorizer,
    local: bool,
    request: &http::Request<B>,
) -> impl Future<Output = Result<Caller, Status>> + Send + use<'a, B> {
    let path = request.uri().path().to_owned();
    let caller = Caller::from_connection(request.extensions(), request.headers(), authorizer.clock.now());
    async move {
        let access = access_of(&path, local)?;
        let caller = caller.ok_or_else(|| Status::internal("unsupported peer auth info"))?;
        if caller.is_local() != local {
            return Err(Status::new(Code::Internal, "unsupported peer auth info"));
        }
        let caller = authorizer.decide(access, &path, caller).await?;
        if authorizer.access.audit_log {
            tracing::info!(target: "audit", method = path, caller = caller.label(), address = ?caller.address, "call");
        }
        Ok(caller)
    }
}

fn access_of(path: &str, local: bool) -> Result<permissions::Access, Status> {
    let malformed = || Status::unimplemented(format!("malformed method name: {path:?}"));
    let (service, method) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')).ok_or_else(malformed)?;
    match permissions::lookup(service, method, local) {
        Lookup::Method(access) => Ok(access),
        Lookup::UnknownMethod => Err(Status::unimplemented(format!("unknown method {method} for service {service}"))),
        Lookup::UnknownService => Err(Status::unimplemented(format!("unknown service {service}"))),
    }
}

#[cfg(test)]
mod tests;
