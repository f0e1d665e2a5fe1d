use time::macros::datetime;
use tower::ServiceExt as _;

use super::*;

fn empty_domains() -> ServedDomains {
    ServedDomains::new(&[], datetime!(2026-11-22 12:00 UTC))
}

#[tokio::test]
async fn nothing_served_is_404_and_other_methods_are_405() {
    let router = public_router(Routes::bundles_and_oidc(&empty_domains()));
    for (method, status) in [("GET", 404), ("HEAD", 404), ("PUT", 405), ("TRACE", 405), ("MADE-UP", 405)] {
        let request = http::Request::builder().method(method).uri("/x").body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{method}");
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
