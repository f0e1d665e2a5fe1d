//! What the listeners answer: bundles and OIDC documents in public, the admin API on its socket and its listener.

pub mod admin;
mod answer;
mod bundle;
mod discovery;
mod jwks;
pub(crate) mod problem;

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    error_handling::HandleErrorLayer,
    extract::{Request, State},
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version, header, request};
use service_kit::{clock::SharedClock, metrics::Counter};
use time::OffsetDateTime;
use tower::{BoxError, ServiceBuilder, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer};

use crate::{
    listeners::{client::ClientAddress, rate_limit::RateLimiter},
    metrics::{GatewayMetrics, RequestCounters},
    served::{ServedDomain, ServedDomains, bundle_map::BundleMap},
    settings::ServingLimits,
};

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
    BundleMap(Arc<BundleMap>),
}

/// A resource and the counters of its requests.
#[derive(Debug, Clone)]
struct Target {
    resource: Resource,
    requests: Arc<RequestCounters>,
}

/// The targets of one path.
#[derive(Debug, Default)]
struct Place {
    /// Under hosts of their own.
    by_host: HashMap<String, Target>,
    /// Under every other host.
    any_host: Option<Target>,
}

/// The paths of one public listener, matched exactly; query strings are ignored.
#[derive(Debug)]
pub struct Routes {
    paths: HashMap<String, Place>,
    /// Requests for nothing.
    nothing: RequestCounters,
}

impl Routes {
    /// Bundles of every domain.
    pub fn bundles(domains: &ServedDomains, metrics: &GatewayMetrics) -> Self {
        let mut routes = Self { paths: HashMap::new(), nothing: metrics.requests("", "") };
        for domain in domains.iter() {
            let settings = domain.settings();
            let target = Target {
                resource: Resource::Bundle(Arc::clone(domain)),
                requests: Arc::new(metrics.requests(domain.name().as_str(), "bundle")),
            };
            routes.add(&settings.path, &settings.hosts, target);
        }
        routes
    }

    /// Bundles of every domain, and the OIDC documents of those that have them.
    pub fn bundles_and_oidc(domains: &ServedDomains, metrics: &GatewayMetrics) -> Self {
        let mut routes = Self::bundles(domains, metrics);
        for domain in domains.iter() {
            if let Some(oidc) = &domain.settings().oidc {
                let hosts = domain.settings().oidc_hosts();
                let name = domain.name().as_str();
                let discovery = Target {
                    resource: Resource::Discovery(Arc::clone(domain)),
                    requests: Arc::new(metrics.requests(name, "oidc_discovery")),
                };
                let jwks = Target {
                    resource: Resource::Jwks(Arc::clone(domain)),
                    requests: Arc::new(metrics.requests(name, "oidc_keys")),
                };
                routes.add(&oidc.discovery_path, &hosts, discovery);
                routes.add(&oidc.jwks_path, &hosts, jwks);
            }
        }
        routes
    }

    /// The bundle map at `path`.
    #[must_use]
    pub(crate) fn with_bundle_map(mut self, path: &str, map: BundleMap, metrics: &GatewayMetrics) -> Self {
        let target = Target {
            resource: Resource::BundleMap(Arc::new(map)),
            requests: Arc::new(metrics.requests("", "bundle_map")),
        };
        self.add(path, &[], target);
        self
    }

    fn add(&mut self, path: &str, hosts: &[String], target: Target) {
        let place = self.paths.entry(path.to_owned()).or_default();
        if hosts.is_empty() {
            place.any_host = Some(target);
        } else {
            place.by_host.extend(hosts.iter().map(|host| (host.clone(), target.clone())));
        }
    }

    fn find(&self, path: &str, host: Option<&str>) -> Option<&Target> {
        let place = self.paths.get(path)?;
        let own = host.and_then(|host| place.by_host.get(host));
        own.or(place.any_host.as_ref())
    }

    fn answer(&self, request: &request::Parts, now: OffsetDateTime) -> Response<Body> {
        let request::Parts { method, uri, headers, .. } = request;
        let host = match host(request.version, uri, headers) {
            Ok(host) => host,
            Err(text) => {
                self.nothing.count(StatusCode::BAD_REQUEST);
                return answer::error(StatusCode::BAD_REQUEST, text, method);
            }
        };
        let target = self.find(uri.path(), host.as_deref());
        let response = match target.map(|target| &target.resource) {
            resource if method != Method::GET && method != Method::HEAD => {
                let text = match resource {
                    Some(Resource::Discovery(_) | Resource::Jwks(_)) => "method not allowed",
                    Some(Resource::Bundle(_) | Resource::BundleMap(_)) | None => answer::METHOD_NOT_ALLOWED,
                };
                answer::error(StatusCode::METHOD_NOT_ALLOWED, text, method)
            }
            Some(Resource::Bundle(domain)) => bundle::answer(domain, method, headers, now),
            Some(Resource::BundleMap(map)) => bundle::answer_map(map, method, headers, now),
            Some(Resource::Discovery(domain)) => discovery::answer(domain, method, headers),
            Some(Resource::Jwks(domain)) => jwks::answer(domain, method, headers, now),
            None => answer::error(StatusCode::NOT_FOUND, answer::NOT_FOUND, method),
        };
        target.map_or(&self.nothing, |target| &target.requests).count(response.status());
        response
    }
}

/// The host asked for, in lower case, without port and final dot: of the URL (HTTP/2, and what proxies are sent), or of
/// the `Host` header. A cache in between might take another one where two are named, and keep one host's document as
/// another's.
///
/// # Errors
/// The text of the answer to a request that names no host, or several.
fn host<'a>(version: Version, uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<Cow<'a, str>>, &'static str> {
    let mut named = headers.get_all(header::HOST).iter();
    let header = named.next();
    if named.next().is_some() {
        return Err(answer::SEVERAL_HOSTS);
    }
    let header = header.map(|value| value.to_str().map_err(|_| answer::BAD_HOST)).transpose()?;
    if version == Version::HTTP_11 && header.is_none() {
        return Err(answer::NO_HOST);
    }
    let header = header.map(|value| match value.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => value,
    });
    if version == Version::HTTP_2
        && let (Some(url), Some(header)) = (uri.host(), header)
        && !url.eq_ignore_ascii_case(header)
    {
        return Err(answer::SEVERAL_HOSTS);
    }
    Ok(uri.host().or(header).map(canonical_host))
}

fn canonical_host(host: &str) -> Cow<'_, str> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    let upper = host.bytes().any(|byte| byte.is_ascii_uppercase());
    if upper { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) }
}

/// What the requests of one public listener meet.
struct Site {
    routes: Routes,
    limiter: Option<Arc<RateLimiter>>,
    rate_limited: Counter,
    clock: SharedClock,
}

/// The limit of requests a second, if there is one. Routers of one listener share it.
pub(crate) fn rate_limiter(limits: &ServingLimits) -> Option<Arc<RateLimiter>> {
    limits.requests_per_second.map(|rate| Arc::new(RateLimiter::new(rate, limits.burst)))
}

/// The service of one public listener.
pub(crate) fn public_router(
    routes: Routes,
    limiter: Option<Arc<RateLimiter>>,
    rate_limited: Counter,
    clock: SharedClock,
) -> Router {
    let site = Arc::new(Site { routes, limiter, rate_limited, clock });
    let shed = Arc::clone(&site);
    let overloaded = move |method: Method, error: BoxError| {
        shed.routes.nothing.count(StatusCode::SERVICE_UNAVAILABLE);
        overloaded(method, error)
    };
    let limits = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(overloaded))
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(MAX_CONCURRENT_REQUESTS))
        .layer(TimeoutLayer::new(REQUEST_TIMEOUT));
    Router::new().fallback(public).with_state(site).layer(limits)
}

async fn public(State(site): State<Arc<Site>>, request: Request) -> Response<Body> {
    let now = site.clock.now();
    if let (Some(limiter), Some(client)) = (&site.limiter, request.extensions().get::<ClientAddress>())
        && let Err(wait) = limiter.take((*client).into(), now)
    {
        site.rate_limited.increment(1);
        site.routes.nothing.count(StatusCode::TOO_MANY_REQUESTS);
        let text = "429 too many requests, try again later";
        return try_again(StatusCode::TOO_MANY_REQUESTS, text, request.method(), wait);
    }
    site.routes.answer(&request.into_parts().0, now)
}

async fn overloaded(method: Method, _error: BoxError) -> Response<Body> {
    let text = "503 overloaded, try again";
    try_again(StatusCode::SERVICE_UNAVAILABLE, text, &method, Duration::from_secs(1))
}

fn try_again(status: StatusCode, text: &str, method: &Method, wait: Duration) -> Response<Body> {
    let mut response = answer::error(status, text, method);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    response
}

#[cfg(test)]
mod tests;
