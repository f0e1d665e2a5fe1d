//! The metrics as Prometheus sees them. Every name is documented.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    client::Connection,
    eventually,
    partner::{Partner, document},
    td,
};

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The value of one line.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn a_scrape_shows_what_happened() {
    let mut setup = Setup::new().await;
    let port = free_port();
    setup.config["health"] = json!({"listener_enabled": true, "bind_address": "127.0.0.1", "bind_port": port});
    let own = setup.issuer.state().authority.bundle(5);
    setup.issuer.state().own = own;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(7))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 7).await;
    eventually("delivery", || async { setup.issuer.state().federated.contains_key(PARTNER) }).await;

    let roots = service_kit::tls::WebRoots::Pem(setup.web.ca_pem().as_bytes().to_vec());
    let clock = service_kit::clock::SystemClock::shared();
    let tls = service_kit::tls::web_client_config(&roots, clock, &[b"http/1.1"]).unwrap();
    let mut client = Connection::open(gateway.web_address, &tls).await.unwrap();
    for path in ["/cloud.example", "/cloud.example", "/nothing"] {
        client.send("GET", path, &[]).await;
    }
    partner.serve(&keys.bundle(3));
    gateway.refused(PARTNER).await;
    setup.issuer.state().own = Authority::new(&td(LOCAL)).bundle(2);

    let scrape = || async {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        answer.text().await.unwrap()
    };
    eventually("the held own bundle to show", || async {
        value(&scrape().await, "entente_gateway_own_bundle_held{trust_domain=\"cloud.example\"}") == Some(1.0)
    })
    .await;
    setup.issuer.state().refuse_reads = true;
    eventually("the age of the own bundle to grow", || async {
        value(&scrape().await, "entente_gateway_own_bundle_age_seconds{trust_domain=\"cloud.example\"}")
            .is_some_and(|age| age > 0.0)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let text = scrape().await;
    let own = |name: &str| value(&text, &format!("entente_gateway_{name}{{trust_domain=\"cloud.example\"}}"));
    let theirs =
        |name: &str| value(&text, &format!("entente_gateway_partner_{name}{{trust_domain=\"onprem.example\"}}"));
    let day = 80_000.0..86_401.0;
    assert!(day.contains(&own("own_bundle_seconds_to_first_key_expiry").unwrap()), "{text}");
    assert!(day.contains(&theirs("seconds_to_first_key_expiry").unwrap()), "{text}");
    assert!(theirs("bundle_age_seconds").unwrap() < 60.0, "{text}");
    assert!(theirs("seconds_since_refresh").unwrap() < 60.0, "{text}");
    assert!(theirs("consecutive_failures").unwrap() >= 1.0, "{text}");
    assert!(theirs("rollback_attempts_total").unwrap() >= 1.0, "{text}");
    for (series, least) in [
        ("requests_total{trust_domain=\"cloud.example\",document=\"bundle\",status=\"200\"}", 2.0),
        ("requests_total{trust_domain=\"\",document=\"\",status=\"404\"}", 1.0),
        ("connections_total{listener=\"https_web\",result=\"served\"}", 1.0),
        ("connections{listener=\"https_web\"}", 1.0),
        ("connections{listener=\"https_spiffe\"}", 0.0),
        ("rate_limited_total{listener=\"https_web\"}", 0.0),
        ("partner_refreshes_total{trust_domain=\"onprem.example\",result=\"ok\"}", 1.0),
        ("partner_refreshes_total{trust_domain=\"onprem.example\",result=\"failed\"}", 1.0),
        ("deliveries_total{local_trust_domain=\"cloud.example\",result=\"delivered\"}", 1.0),
    ] {
        let series = format!("entente_gateway_{series}");
        assert!(value(&text, &series).is_some_and(|count| count >= least), "{series}\n{text}");
    }

    let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
    gateway.stop().await;
}
