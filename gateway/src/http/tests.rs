use time::macros::datetime;
use tower::ServiceExt as _;

use super::*;

fn empty_domains() -> ServedDomains {
    ServedDomains::new(&[], datetime!(2026-11-22 12:00 UTC))
}

fn router(limiter: Option<Arc<RateLimiter>>) -> Router {
    let metrics = GatewayMetrics::new();
    let routes = Routes::bundles_and_oidc(&empty_domains(), &metrics);
    let clock = Arc::new(service_kit::clock::ManualClock::new(datetime!(2026-11-22 12:00 UTC)));
    public_router(routes, limiter, metrics.rate_limited("https_web"), clock)
}

#[tokio::test]
async fn clients_beyond_their_rate_get_429_with_retry_after() {
    let router = router(Some(Arc::new(RateLimiter::new(1, 2))));
    let ask = async |client: &str| {
        let mut request = http::Request::builder().uri("/x").header("host", "x").body(Body::empty()).unwrap();
        request.extensions_mut().insert(ClientAddress(client.parse().unwrap()));
        router.clone().oneshot(request).await.unwrap()
    };
    assert_eq!(ask("192.0.2.1").await.status(), 404);
    assert_eq!(ask("192.0.2.1").await.status(), 404);
    let refused = ask("192.0.2.1").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(ask("192.0.2.2").await.status(), 404, "another client");
}

#[test]
fn the_host_is_that_of_the_url_or_the_header() {
    let asked = |version: Version, uri: &str, hosts: &[&str]| {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        let host = super::host(version, &uri.parse().unwrap(), &headers).map(|host| host.map(Cow::into_owned));
        host.map(|host| host.unwrap_or_else(|| "-".to_owned())).map_err(|text| text[..3].to_owned())
    };
    let (one, two) = (Version::HTTP_11, Version::HTTP_2);
    let ok = |host: &str| Ok(host.to_owned());
    let bad = || Err("400".to_owned());
    assert_eq!(asked(one, "/x", &["Bundles.Example:8443"]), ok("bundles.example"));
    assert_eq!(asked(one, "/x", &["bundles.example"]), ok("bundles.example"));
    assert_eq!(asked(one, "/x", &["bundles.example.:443"]), ok("bundles.example"), "an absolute name");
    assert_eq!(asked(one, "/x", &["bundles.example:"]), ok("bundles.example"));
    assert_eq!(asked(one, "/x", &["[::1]:8443"]), ok("::1"));
    assert_eq!(asked(Version::HTTP_10, "/x", &[]), ok("-"));
    assert_eq!(asked(two, "https://h2.example:8443/x", &[]), ok("h2.example"));
    assert_eq!(asked(two, "https://H2.example/x", &["h2.example:443"]), ok("h2.example"));
    assert_eq!(asked(one, "https://absolute.example/x", &["other.example"]), ok("absolute.example"));
    // Who is between might have taken the other one.
    assert_eq!(asked(one, "/x", &["one.example", "two.example"]), bad());
    assert_eq!(asked(one, "/x", &["one.example", "one.example"]), bad());
    assert_eq!(asked(two, "https://one.example/x", &["two.example"]), bad());
    assert_eq!(asked(one, "/x", &[]), bad());
    assert_eq!(asked(one, "/x", &["\u{e4}.example"]), bad());
}

#[tokio::test]
async fn nothing_served_is_404_and_other_methods_are_405() {
    let router = router(None);
    for (method, status) in [("GET", 404), ("HEAD", 404), ("PUT", 405), ("TRACE", 405), ("MADE-UP", 405)] {
        let request =
            http::Request::builder().method(method).uri("/x").header("host", "x").body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{method}");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let length = response.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap();
        let body = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
        assert_eq!(body.len(), if method == "HEAD" { 0 } else { length }, "{method}");
    }
}

#[tokio::test]
async fn overload_answers_503_with_retry_after() {
    let response = overloaded(Method::GET, "full".into()).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
}
