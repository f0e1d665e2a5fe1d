use service_kit::config;

use super::*;

const MINIMAL: &str = "
trust_domain: cloud.example
data_dir: /var/lib/entente/agent
server_address: issuer.example
server_port: 8081
trust_bundle_path: /etc/entente/bundle.pem
";

fn parse(text: &str) -> Result<Config, String> {
    config::from_str(text, "agent.yaml", ENV_PREFIX, []).map_err(|error| error.to_string())
}

/// The error of the minimal configuration with these lines added; a line whose key is already there replaces it, and
/// `key: ~` removes it.
fn error(lines: &str) -> String {
    let key = |line: &str| line.split(':').next().unwrap_or_default().to_string();
    let mut kept: Vec<&str> = MINIMAL.lines().filter(|line| !line.is_empty()).collect();
    for line in lines.lines().filter(|line| !line.starts_with(' ')) {
        kept.retain(|kept| key(kept) != key(line));
    }
    let added = lines.lines().filter(|line| !line.ends_with(": ~"));
    let text = kept.into_iter().chain(added).collect::<Vec<_>>().join("\n");
    match parse(&text) {
        Ok(config) => config.check().unwrap_err().to_string(),
        Err(error) => error,
    }
}

#[test]
fn defaults_are_spires() {
    let config = parse(MINIMAL).unwrap();
    let checked = config.check().unwrap();
    assert_eq!(checked.address, "issuer.example:8081");
    assert!(matches!(checked.token, TokenSource::Missing));
    assert!(matches!(checked.bootstrap, BootstrapSource::File(_, BundleFormat::Pem)));
    assert_eq!(config.socket_path, Path::new("/tmp/spire-agent/public/api.sock"));
    assert_eq!(config.keys_path().unwrap(), Path::new("/var/lib/entente/agent/keys.json"));
    assert_eq!((config.x509_cache_size(), config.jwt_cache_size()), (1000, 1000));
    assert_eq!(config.sync_interval, HumanDuration::from_secs(5));
    assert_eq!(config.workload_x509_svid_key_type, KeyType::EcP256);
    assert!(config.workload_attestors.unix.is_some());
    assert_eq!(config.node_attestor, NodeAttestorConfig::JoinToken {});
}

#[test]
fn each_mistake_is_named_with_its_remedy() {
    for (lines, expected) in [
        ("trust_domain: Bad TD", "trust_domain `Bad TD` is not valid"),
        ("server_address: \"\"", "server_address must not be empty"),
        ("server_address: https://issuer.example", "give it without scheme and port"),
        ("server_address: issuer.example:8081", "give it without scheme and port"),
        ("server_port: 0", "server_port must not be 0"),
        ("server_port: 65536", "agent.yaml"),
        ("trust_bundle_path: ~", "there is nothing to trust the issuer by"),
        ("insecure_bootstrap: true", "trust_bundle_path and insecure_bootstrap exclude each other"),
        ("trust_bundle_url: https://a.example/b", "trust_bundle_path and trust_bundle_url exclude each other"),
        ("trust_bundle_path: ~\ntrust_bundle_url: http://a.example/b", "its scheme is not https"),
        ("trust_bundle_path: ~\ntrust_bundle_url: nonsense", "trust_bundle_url `nonsense` is not usable"),
        ("trust_bundle_format: der", "agent.yaml"),
        ("join_token: a\njoin_token_file: b", "join_token and join_token_file exclude each other"),
        ("join_token: \" \"", "join_token must not be empty"),
        ("workload_x509_svid_key_type: rsa-4096", "use ec-p256, ec-p384 or rsa-2048"),
        ("sync_interval: 10ms", "use a value from 500ms to 1h"),
        ("sync_interval: 2h", "use a value from 500ms to 1h"),
        ("x509_svid_cache_max_size: -1", "agent.yaml"),
        ("workload_attestors: {}", "workload_attestors names none"),
        ("workload_attestors: {docker: {}}", "unknown key `workload_attestors.docker`"),
        ("node_attestor: {x509pop: {private_key_path: k}}", "certificate_path"),
        ("node_attestor: {join_tokn: {}}", "did you mean `join_token`?"),
        ("socket_pat: x", "did you mean `socket_path`?"),
        ("admin_socket_path: /tmp/spire-agent/public/admin.sock", "lies in or under the folder of socket_path"),
        ("admin_socket_path: /tmp/spire-agent/public/a/../b/admin.sock", "lies in or under the folder of socket_path"),
    ] {
        let error = error(lines);
        assert!(error.contains(expected), "{lines}: {error}");
    }
    let both = "join_token: t\nnode_attestor: {x509pop: {private_key_path: k, certificate_path: c}}";
    assert_eq!(error(both), "join_token is set, but node_attestor is x509pop; remove one of them");
}

#[test]
fn addresses_of_every_family() {
    for (host, expected) in [("10.0.0.1", "10.0.0.1:8081"), ("::1", "[::1]:8081"), ("[::1]", "[::1]:8081")] {
        let mut config = parse(MINIMAL).unwrap();
        config.server_address = host.into();
        assert_eq!(config.check().unwrap().address, expected);
    }
}

#[test]
fn the_example_is_valid_and_shows_every_setting() {
    let text = include_str!("../../../docs/examples/agent.yaml");
    let config = parse(text).unwrap();
    config.check().unwrap();
    let schema = config::schema::<Config>();
    for key in schema["properties"].as_object().unwrap().keys() {
        assert!(text.contains(&format!("{key}:")), "docs/examples/agent.yaml does not show {key}");
    }
}

#[test]
fn the_environment_overrides_and_debug_hides_the_token() {
    let environment = [("ENTENTE_AGENT__JOIN_TOKEN".to_string(), "secret-token".to_string())];
    let config: Config = config::from_str(MINIMAL, "agent.yaml", ENV_PREFIX, environment).unwrap();
    assert!(matches!(config.check().unwrap().token, TokenSource::Value(token) if token.as_str() == "secret-token"));
    assert!(!format!("{config:?}").contains("secret-token"));
    assert!(!format!("{:?}", config.check().unwrap()).contains("secret-token"));
}
