//! The metrics as Prometheus sees them. Every name is documented.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    client::Connection,
    eventually,
    partner::{Partner, document},
    receiver::{Answer, Receiver},
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
    let receiver = Receiver::start(&setup, Answer::Status(200)).await;
    receiver.configure(&mut setup, "pager", &["source.held"]);
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
    assert!(day.contains(&own("own_bundle_seconds_to_last_key_expiry").unwrap()), "{text}");
    assert!(day.contains(&theirs("seconds_to_last_key_expiry").unwrap()), "{text}");
    assert!((-1.0..=120.0).contains(&theirs("seconds_to_next_refresh").unwrap()), "{text}");
    assert_eq!(theirs("bundle_held"), Some(0.0));
    assert_eq!(value(&text, "entente_gateway_deliveries_failing{local_trust_domain=\"cloud.example\"}"), Some(0.0));
    assert_eq!(value(&text, "entente_gateway_webhook_consecutive_failures{webhook=\"pager\"}"), Some(0.0));
    assert!(value(&text, "entente_gateway_webhook_backlog{webhook=\"pager\"}").is_some(), "{text}");
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

#[tokio::test]
async fn a_held_partner_shows_and_a_removed_one_is_gone() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    setup.config["relationships"][0]["mode"] = json!("hold");
    let gateway = setup.start().await;
    let series = "entente_gateway_partner_bundle_held{trust_domain=\"onprem.example\"}";
    eventually("the waiting bundle to show", || async { value(&gateway.metrics.render(), series) == Some(1.0) }).await;
    gateway.stop().await;
    setup.config["relationships"] = json!([]);
    let gateway = setup.start().await;
    assert!(!gateway.metrics.render().contains(PARTNER));
    gateway.stop().await;
}

#[test]
fn the_example_alerts_are_about_metrics_there_are() {
    let docs = |name: &str| std::fs::read_to_string(format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let alerts: serde_json::Value = serde_saphyr::from_str(&docs("examples/prometheus-alerts.yaml")).unwrap();
    let documented = docs("metrics.md");
    let mut names = std::collections::BTreeSet::new();
    for group in alerts["groups"].as_array().unwrap() {
        assert!(group["name"].is_string());
        for rule in group["rules"].as_array().unwrap() {
            let alert = rule["alert"].as_str().unwrap();
            assert!(names.insert(alert.to_owned()), "{alert} is there twice");
            assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{alert}");
            assert!(rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string());
            let known = ["alert", "expr", "for", "labels", "annotations"];
            assert!(rule.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{rule}");
            let words = rule["expr"].as_str().unwrap().split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            let metrics: Vec<&str> = words.filter(|word| word.starts_with("entente_")).collect();
            assert!(!metrics.is_empty(), "{alert}");
            for metric in metrics {
                assert!(documented.contains(&format!("`{metric}`")), "{alert}: {metric} is not in docs/metrics.md");
            }
        }
    }
    assert!(names.len() > 10, "{names:?}");
}
