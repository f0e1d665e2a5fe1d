use super::*;
use crate::config;

const BASE: &str = "
data_dir: /var/lib/entente-gateway
listeners:
  https_web:
    bind_address: 127.0.0.1
    bind_port: 8443
    serving_cert_file: { cert_file_path: web.pem, key_file_path: web.key }
  https_spiffe: { bind_address: 127.0.0.1, bind_port: 8444 }
trust_domains:
  - name: cloud.example
    issuer: { socket_path: /run/issuer.sock }
    endpoint_id: spiffe://cloud.example/entente/gateway
    oidc: { issuer: 'https://oidc.example:8443/cloud' }
relationships:
  - trust_domain: onprem.example
    url: https://gateway.onprem.example/bundle
    profile: https_spiffe
    endpoint_spiffe_id: spiffe://onprem.example/entente/gateway
";

fn check(yaml: &str) -> Result<Settings, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    std::fs::write(&path, yaml).unwrap();
    let config: Config = service_kit::config::load(&path, config::ENV_PREFIX).unwrap();
    Settings::check(&config)
}

fn refused(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "the test changes nothing: {from}");
    check(&BASE.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn defaults_are_filled_in() {
    let settings = check(BASE).unwrap();
    let domain = &settings.trust_domains[0];
    assert_eq!(domain.path, "/cloud.example");
    assert_eq!(domain.refresh_hint, Duration::from_secs(300));
    assert_eq!(domain.poll_interval, Duration::from_secs(5));
    assert_eq!(domain.server_names, ["cloud.example"]);
    let oidc = domain.oidc.as_ref().unwrap();
    assert_eq!(oidc.issuer, "https://oidc.example:8443/cloud");
    assert_eq!(oidc.jwks_uri, "https://oidc.example:8443/cloud/keys");
    assert_eq!(oidc.discovery_path, "/cloud/.well-known/openid-configuration");
    assert_eq!(oidc.jwks_path, "/cloud/keys");
    let relationship = &settings.relationships[0];
    assert!(relationship.local_trust_domains.contains(&domain.name));
    assert_eq!(settings.refresh.min_interval, Duration::from_secs(15));
    assert_eq!(settings.refresh.timeout, Duration::from_secs(30));
}

#[test]
fn oidc_issuer_without_path_keeps_its_exact_text() {
    let settings = check(&BASE.replace("https://oidc.example:8443/cloud", "https://oidc.example/")).unwrap();
    let oidc = settings.trust_domains[0].oidc.clone().unwrap();
    assert_eq!(oidc.issuer, "https://oidc.example/");
    assert_eq!(oidc.jwks_uri, "https://oidc.example/keys");
    assert_eq!(oidc.discovery_path, "/.well-known/openid-configuration");
    assert_eq!(oidc.jwks_path, "/keys");
}

#[test]
fn each_wrong_value_names_its_key_and_a_remedy() {
    let cases = [
        ("127.0.0.1, bind_port: 8444", "host, bind_port: 8444", "listeners.https_spiffe.bind_address: `host` is no IP"),
        ("bind_port: 8444", "bind_port: 8443", "set server_names"),
        ("bind_port: 8444", "bind_port: 8444, proxy_protocol_trusted_cidrs: [10.0.0.0/40]", "is no network"),
        ("    issuer: { socket_path: /run/issuer.sock }\n", "", "has neither issuer nor sources"),
        (
            "    oidc:",
            "    sources: [{ file: { path: x }, url: { url: x, profile: https_web } }]\n    oidc:",
            "exactly one of",
        ),
        (
            "    oidc:",
            "    sources: [{ file: { path: x } }, { file: { path: x } }]\n    oidc:",
            "`file x` is listed twice",
        ),
        (
            "    oidc:",
            "    sources: [{ url: { url: 'https://a/', profile: https_spiffe } }]\n    oidc:",
            "endpoint_spiffe_id: is missing",
        ),
        ("    oidc:", "    hosts: ['a.example:8443']\n    oidc:", "write a host name without port"),
        ("data_dir:", "bundle_map: { path: /cloud.example }\ndata_dir:", "is already used by trust_domains[0].path"),
        ("data_dir:", "bundle_map: { path: /all, trust_domains: [other.example] }\ndata_dir:", "is not served by"),
        (
            "data_dir:",
            "webhooks: [{ name: A, url: 'https://h/', secret_file: s }]\ndata_dir:",
            "webhooks[0].name: must have",
        ),
        (
            "data_dir:",
            "webhooks: [{ name: a, url: 'http://h.example/secret', secret_file: s }]\ndata_dir:",
            "webhooks[0].url: cannot be used: only https is allowed",
        ),
        ("data_dir:", "webhooks: [{ name: a, url: x, secret_file: s }]\ndata_dir:", "it is no absolute URL"),
        (
            "data_dir:",
            "webhooks: [{ name: a, url: 'https://h/', secret_file: s, events: [bundel.*] }]\ndata_dir:",
            "webhooks[0].events: `bundel.*` is no type of event; there are bundle.accepted,",
        ),
        (
            "data_dir:",
            "webhooks: [{ name: a, url: 'https://h/', secret_file: s, timeout: 2m }]\ndata_dir:",
            "webhooks[0].timeout: is too long",
        ),
        (
            "data_dir:",
            "webhooks: [&w { name: a, url: 'https://h/', secret_file: s }, *w]\ndata_dir:",
            "webhooks[1].name: `a` is listed twice",
        ),
        (
            "data_dir:",
            "webhooks: [{ name: a, url: 'https://h/', secret_file: s, allow_addresses: [intern] }]\ndata_dir:",
            "webhooks[0].allow_addresses[0]: `intern` is no network",
        ),
        ("data_dir:", "webhook_thresholds: { consecutive_failures: 0 }\ndata_dir:", "must be at least 1"),
        ("data_dir:", "limits: { max_connections: 0 }\ndata_dir:", "nobody would be served"),
        ("data_dir:", "limits: { header_timeout: 1ms }\ndata_dir:", "limits.header_timeout"),
        (
            "spiffe://cloud.example/entente/gateway",
            "spiffe://other.example/g",
            "the issuer of `other.example`, which this gateway does not know",
        ),
        ("spiffe://cloud.example/entente/gateway", "spiffe://cloud.example/spire/server", "will not mint it"),
        (
            "    endpoint_id: spiffe://cloud.example/entente/gateway\n",
            "    endpoint_svid: { workload_api: { socket_path: /a } }\n",
            "trust_domains[0].endpoint_svid: needs endpoint_id",
        ),
        (
            "    oidc:",
            "    endpoint_svid: { workload_api: { socket_path: '' } }\n    oidc:",
            "endpoint_svid.workload_api.socket_path: is empty",
        ),
        ("{ socket_path: /run/issuer.sock }", "{}", "trust_domains[0].issuer: names no issuer"),
        ("{ socket_path: /run/issuer.sock }", "{ address: 'host:1' }", "issuer.workload_api_socket: is missing"),
        ("{ socket_path: /run/issuer.sock }", "{ address: host, workload_api_socket: /s }", "is no host:port"),
        ("https://oidc.example:8443/cloud", "http://oidc.example", "OIDC requires https"),
        ("https://oidc.example:8443/cloud", "https://oidc.example/?a=b", "has a query"),
        ("endpoint_spiffe_id:", "ca_file: x.pem\n    endpoint_spiffe_id:", "ca_file: belongs to profile https_web"),
        ("endpoint_spiffe_id:", "ca_pem: x\n    endpoint_spiffe_id:", "ca_pem: belongs to profile https_web"),
        (
            "endpoint_spiffe_id:",
            "bootstrap_bundle: x\n    endpoint_spiffe_id:",
            "bootstrap_bundle: is no SPIFFE bundle",
        ),
        (
            "endpoint_spiffe_id:",
            "bootstrap_bundle: '{\"keys\": []}'\n    endpoint_spiffe_id:",
            "bootstrap_bundle: has no X.509 authority",
        ),
        (
            "endpoint_spiffe_id:",
            "bootstrap_bundle: x\n    bootstrap_bundle_file: y.json\n    endpoint_spiffe_id:",
            "bootstrap_bundle: is given besides bootstrap_bundle_file",
        ),
        ("profile: https_spiffe", "profile: https_web", "endpoint_spiffe_id: belongs to profile https_spiffe"),
        ("https://gateway.onprem.example/bundle", "http://gateway.onprem.example", "relationships[0].url"),
        ("trust_domain: onprem.example", "trust_domain: cloud.example", "is served by this gateway itself"),
        ("trust_domain: onprem.example", "trust_domain: On_Prem!", "relationships[0].trust_domain"),
        ("    url:", "    local_trust_domains: [third.example]\n    url:", "is not served by this gateway"),
        ("    endpoint_id: spiffe://cloud.example/entente/gateway\n", "", "no trust domain has an endpoint_id"),
        ("    oidc:", "    path: cloud\n    oidc:", "write `/cloud`"),
        ("    oidc:", "    path: /cloud/keys\n    oidc:", "is already used by trust_domains[0].path"),
        ("    oidc:", "    refresh_hint: 0s\n    oidc:", "trust_domains[0].refresh_hint"),
        (
            "    url:",
            "    allow_addresses: [10.0.0.0/33]\n    url:",
            "relationships[0].allow_addresses[0]: `10.0.0.0/33`",
        ),
        ("    url:", "    failover_urls: ['http://a/']\n    url:", "relationships[0].failover_urls[0]"),
        (
            "    url:",
            "    failover_urls: ['https://gateway.onprem.example/bundle']\n    url:",
            "failover_urls[0]: `https://gateway.onprem.example/bundle` is listed twice",
        ),
        (
            "    url:",
            "    failover_urls: ['https://a/', 'https://b/', 'https://c/', 'https://d/']\n    url:",
            "has more than 3 items",
        ),
        (
            "data_dir:",
            "refresh: { allow_addresses: [all] }\ndata_dir:",
            "refresh.allow_addresses[0]: `all` is no network",
        ),
        (
            "data_dir:",
            "refresh: { nameservers: [dns.example] }\ndata_dir:",
            "refresh.nameservers[0]: `dns.example` is no IP",
        ),
        ("data_dir:", "refresh: { proxy: { url: 'socks5://p:1' } }\ndata_dir:", "only http proxies are supported"),
        ("data_dir:", "refresh: { proxy: { url: p:1, no_proxy: ['a b'] } }\ndata_dir:", "`a b` is no host"),
        ("data_dir:", "refresh: { proxy: { url: p:1, password_file: x } }\ndata_dir:", "proxy.username: is missing"),
        (
            "data_dir:",
            "refresh: { proxy: { url: p:1, username: u, password_file: /none } }\ndata_dir:",
            "`/none` cannot be read",
        ),
    ];
    for (from, to, expected) in cases {
        let message = refused(from, to);
        assert!(message.contains(expected), "{to}: {message}");
    }
}

const ACME: &str = "    acme: { domain_name: Gateway.cloud.example, tos_accepted: true }\n";

fn with_acme(acme: &str) -> Result<Settings, SettingsError> {
    let files = "    serving_cert_file: { cert_file_path: web.pem, key_file_path: web.key }\n";
    assert!(BASE.contains(files));
    check(&BASE.replace(files, acme))
}

#[test]
fn acme_is_understood() {
    let settings = with_acme(ACME).unwrap();
    let WebCertificate::Acme(acme) = settings.https_web.unwrap().certificate else { panic!("no ACME") };
    assert_eq!(acme.directory_url.as_str(), config::DEFAULT_DIRECTORY_URL);
    assert_eq!(acme.domain_names, ["gateway.cloud.example"]);
    assert!(matches!(acme.challenge, ChallengeSettings::TlsAlpn01));
    let http = ACME.replace("tos_accepted", "challenge: http_01, tos_accepted");
    let WebCertificate::Acme(acme) = with_acme(&http).unwrap().https_web.unwrap().certificate else { panic!() };
    let ChallengeSettings::Http01(listener) = acme.challenge else { panic!("not HTTP-01") };
    assert_eq!((listener.address, listener.redirect_to_https), ("0.0.0.0:80".parse().unwrap(), false));
}

#[test]
fn wrong_acme_values_name_their_key_and_a_remedy() {
    for (from, to, expected) in [
        ("tos_accepted: true", "tos_accepted: false", "acme.tos_accepted: is not true; read the terms"),
        ("domain_name: Gateway.cloud.example, ", "", "exactly one of domain_name and domain_names"),
        ("tos_accepted", "domain_names: [a.example], tos_accepted", "exactly one of domain_name and domain_names"),
        ("Gateway.cloud.example", "'*.cloud.example'", "prove a wildcard"),
        ("Gateway.cloud.example", "192.0.2.1", "acme.domain_names: `192.0.2.1`"),
        ("Gateway.cloud.example", "'a.example:443'", "write a DNS name without port"),
        ("tos_accepted", "directory_url: 'http://ca.example/dir', tos_accepted", "ACME requires https"),
        ("tos_accepted", "email: nobody, tos_accepted", "acme.email: `nobody` is no plain e-mail address"),
        ("tos_accepted", "http_01: { bind_port: 8080 }, tos_accepted", "belongs to challenge http_01"),
        ("tos_accepted", "challenge: http_01, http_01: { bind_address: x }, tos_accepted", "`x` is no IP address"),
        ("tos_accepted", "external_account: { key_id: '', hmac_key_file: k }, tos_accepted", "key_id: is empty"),
        ("    acme", "    serving_cert_file: { cert_file_path: a, key_file_path: b }\n    acme", "exactly one of"),
        (ACME, "", "exactly one of serving_cert_file"),
    ] {
        assert!(ACME.contains(from), "the test changes nothing: {from}");
        let message = with_acme(&ACME.replace(from, to)).unwrap_err().to_string();
        assert!(message.contains(expected), "{to}: {message}");
    }
    let shared = BASE
        .replace("    serving_cert_file: { cert_file_path: web.pem, key_file_path: web.key }\n", ACME)
        .replace("bind_port: 8444", "bind_port: 8443")
        .replace("    oidc:", "    server_names: [gateway.cloud.example]\n    oidc:");
    let message = check(&shared).unwrap_err().to_string();
    assert!(message.contains("acme.domain_names: `gateway.cloud.example` is in server_names"), "{message}");
}

#[test]
fn the_way_to_partners_is_understood() {
    let settings = check(&BASE.replace(
        "data_dir:",
        "refresh:\n  allow_addresses: [10.1.2.3/8, 'fd00::1']\n  nameservers: [10.0.0.53, '[fd00::53]:5353']\n  \
         proxy: { url: 'http://p.example:3128', no_proxy: [.internal.example] }\ndata_dir:",
    ))
    .unwrap();
    let network = settings.network;
    assert_eq!(network.allow_addresses, ["10.0.0.0/8".parse().unwrap(), "fd00::1/128".parse().unwrap()]);
    assert_eq!(network.nameservers, ["10.0.0.53:53".parse().unwrap(), "[fd00::53]:5353".parse().unwrap()]);
    assert_eq!(network.proxy.unwrap().to_string(), "http://p.example:3128");
}

#[test]
fn certificate_authorities_can_be_written_in_place() {
    let web = BASE.replace("profile: https_spiffe", "profile: https_web");
    let with =
        |lines: &str| {
            check(&web.replace(
                "    endpoint_spiffe_id: spiffe://onprem.example/entente/gateway\n",
                &format!("    {lines}\n"),
            ))
        };
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = serde_json::to_string(&parameters.self_signed(&key).unwrap().pem()).unwrap();
    let settings = with(&format!("ca_pem: {pem}")).unwrap();
    assert!(matches!(settings.relationships[0].ca, Some(Document::Inline(_))));
    let refused = |lines: &str| with(lines).unwrap_err().to_string();
    assert!(refused("ca_pem: /etc/ca.pem").contains("ca_pem: holds no PEM certificate; give the text of the file"));
    assert!(refused("ca_pem: x\n    ca_file: y.pem").contains("ca_pem: is given besides ca_file"));
    assert!(refused(&format!("ca_pem: {}", "x".repeat(MAX_CA_PEM_BYTES + 1))).contains("is longer than"));
    let broken = "\"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n\"";
    assert!(refused(&format!("ca_pem: {broken}")).contains("holds a certificate that cannot be used"));
    assert!(refused("bootstrap_bundle: x").contains("bootstrap_bundle: belongs to profile https_spiffe"));
}

#[test]
fn an_endpoint_svid_from_an_agent_needs_no_issuer() {
    let agent = "    endpoint_svid: { workload_api: { socket_path: /run/agent.sock } }\n    oidc:";
    let elsewhere = BASE.replace("spiffe://cloud.example/entente/gateway", "spiffe://other.example/gateway");
    let settings = check(&elsewhere.replace("    oidc:", agent)).unwrap();
    let socket = "/run/agent.sock".into();
    assert_eq!(settings.trust_domains[0].endpoint_svid, EndpointSvidSettings::WorkloadApi { socket });
    // The same ID for a second domain must come from the same place.
    let second = "  - name: second.example
    sources: [{ file: { path: x } }]
    endpoint_id: spiffe://cloud.example/entente/gateway
relationships:";
    assert!(check(&BASE.replace("relationships:", second)).is_ok());
    let mixed = BASE.replace("    oidc:", agent).replace("relationships:", second);
    let message = check(&mixed).unwrap_err().to_string();
    assert!(message.contains("trust_domains[1].endpoint_svid: `spiffe://cloud.example"), "{message}");
}

#[test]
fn several_sources_hosts_and_a_shared_listener_are_understood() {
    let yaml = BASE.replace("bind_port: 8444", "bind_port: 8443").replace(
        "    oidc:",
        "    server_names: [spiffe.Cloud.example]
    hosts: [Bundles.cloud.example, 192.0.2.1]
    sources:
      - server_api: { socket_path: /run/second.sock }
      - file: { path: /etc/bundle.pem, format: pem }
      - workload_api: { socket_path: /run/agent.sock }
      - url: { url: 'https://other.example/bundle', profile: https_web }
    oidc:",
    );
    let settings = check(&yaml).unwrap();
    assert!(settings.shares_listener());
    let domain = &settings.trust_domains[0];
    let keys: Vec<String> = domain.sources.iter().map(SourceSettings::key).collect();
    let file = "file /etc/bundle.pem";
    let (api, agent, url) =
        ("server_api /run/second.sock", "workload_api /run/agent.sock", "url https://other.example/bundle");
    assert_eq!(keys, ["issuer", api, file, agent, url]);
    assert_eq!(domain.server_names, ["cloud.example", "spiffe.cloud.example"]);
    assert_eq!(domain.hosts, ["bundles.cloud.example", "192.0.2.1"]);
    assert_eq!(domain.oidc_hosts(), ["bundles.cloud.example", "192.0.2.1", "oidc.example"]);
    let clash = yaml.replace("spiffe.Cloud.example", "oidc.example");
    assert!(check(&clash).unwrap_err().to_string().contains("would be shown an X509-SVID"));
    assert!(!check(BASE).unwrap().shares_listener());
}

#[test]
fn the_example_in_the_documentation_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/gateway.yaml");
    let config: Config = service_kit::config::load(std::path::Path::new(path), config::ENV_PREFIX).unwrap();
    Settings::check(&config).unwrap();
}
