//! What the listeners answer: bundles and OIDC documents in public, the admin API on the local socket.

pub mod admin;
mod answer;
mod bundle;
mod discovery;
mod jwks;
mod problem;

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    error_handling::HandleErrorLayer,
    extract::{Request, State},
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tower::{BoxError, ServiceBuilder, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer};

use crate::served::{ServedDomain, ServedDomains};

/// Requests answered at the same moment by one listener; further ones get 503 at once.
pub const MAX_CONCURRENT_REQUESTS: usize = 4096;

/// Longest time one request may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What a path of a public listener names.
#[derive(Debug, Clone)]
enum Resource {
    Bundle(Arc<ServedDomain>),
    Discovery(Arc<ServedDomain>),
    Jwks(Arc<ServedDomain>),
}

/// The paths of one public listener, matched exactly; query strings are ignored.
#[derive(Debug, Default)]
pub struct Routes {
    paths: HashMap<String, Resource>,
}

impl Routes {
    /// Bundles of every domain.
    pub fn bundles(domains: &ServedDomains) -> Self {
        let paths = domains
            .iter()
            .map(|domain| (domain.settings().path.clone(), Resource::Bundle(Arc::clone(domain))))
            .collect();
        Self { paths }
    }

    /// Bundles of every domain, and the OIDC documents of those that have them.
    pub fn bundles_and_oidc(domains: &ServedDomains) -> Self {
        let mut routes = Self::bundles(domains);
        for domain in domains.iter() {
            if let Some(oidc) = &domain.settings().oidc {
                routes.paths.insert(oidc.discovery_path.clone(), Resource::Discovery(Arc::clone(domain)));
                routes.paths.insert(oidc.jwks_path.clone(), Resource::Jwks(Arc::clone(domain)));
            }
        }
        routes
    }

    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Body> {
        let resource = self.paths.get(path);
        if method != Method::GET && method != Method::HEAD {
            let text = match resource {
                Some(Resource::Discovery(_) | Resource::Jwks(_)) => "method not allowed",
                Some(Resource::Bundle(_)) | None => answer::METHOD_NOT_ALLOWED,
            };
            return answer::error(StatusCode::METHOD_NOT_ALLOWED, text, method);
        }
        match resource {
            Some(Resource::Bundle(domain)) => bundle::answer(domain, method, headers),
            Some(Resource::Discovery(domain)) => discovery::answer(domain, method, headers),
            Some(Resource::Jwks(domain)) => jwks::answer(domain, method, headers),
            None => answer::error(StatusCode::NOT_FOUND, answer::NOT_FOUND, method),
        }
    }
}

/// The service of one public listener.
pub fn public_router(routes: Routes) -> Router {
    let limits = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(overloaded))
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(MAX_CONCURRENT_REQUESTS))
        .layer(TimeoutLayer::new(REQUEST_TIMEOUT));
    Router::new().fallback(public).with_state(Arc::new(routes)).layer(limits)
}

async fn public(State(routes): State<Arc<Routes>>, request: Request) -> Response<Body> {
    routes.answer(request.method(), request.uri().path(), request.headers())
}

async fn overloaded(method: Method, _error: BoxError) -> Response<Body> {
    let mut response = answer::error(StatusCode::SERVICE_UNAVAILABLE, "503 overloaded, try again", &method);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests;
