use super::*;
use service_kit::config::{from_str, schema};

const EXAMPLE: &str = include_str!("../../../docs/examples/issuer.yaml");

fn read(text: &str) -> Config {
    from_str(text, "issuer.yaml", ENV_PREFIX, []).unwrap()
}

fn minimal(more: &str) -> Config {
    read(&format!("trust_domain: cloud.example\ndata_dir: data\n{more}"))
}

fn problem(more: &str) -> String {
    minimal(more).check().unwrap_err().to_string()
}

#[test]
fn the_example_is_valid_and_names_every_section() {
    let config = read(EXAMPLE);
    let checked = config.check().unwrap();
    assert_eq!(checked.trust_domain.as_str(), "cloud.example");
    assert_eq!(checked.warnings, Vec::<String>::new());
    let text = EXAMPLE;
    let schema = schema::<Config>();
    for key in schema["properties"].as_object().unwrap().keys() {
        assert!(text.contains(&format!("{key}:")), "the example does not mention {key}");
    }
}

#[test]
fn only_trust_domain_and_data_dir_are_needed() {
    let config = minimal("");
    config.check().unwrap();
    assert_eq!((config.bind_address.as_str(), config.bind_port), ("0.0.0.0", 8081));
    assert_eq!(config.socket_path, Path::new("/tmp/spire-server/private/api.sock"));
    assert_eq!(config.ca_ttl, HumanDuration::from_secs(86_400));
    assert_eq!(config.agent_ttl(), HumanDuration::from_secs(3_600));
    assert_eq!(config.default_jwt_svid_ttl, HumanDuration::from_secs(300));
    assert_eq!(config.keys_path().as_deref(), Some(Path::new("data/keys.json")));
    assert_eq!(config.database_path(), Path::new("data/issuer.sqlite3"));
    assert!(config.ratelimit.attestation && config.ratelimit.signing);
    assert!(config.node_attestors.join_token.is_some());
    let missing = from_str::<Config>("data_dir: data\n", "issuer.yaml", ENV_PREFIX, []).unwrap_err();
    assert!(missing.to_string().contains("trust_domain"), "{missing}");
}

#[test]
fn plug_ins_are_chosen_by_name() {
    let config = minimal("key_manager: { memory: {} }\ndatastore: { sqlite: { path: /var/lib/x.db } }\n");
    assert_eq!(config.keys_path(), None);
    assert_eq!(config.database_path(), Path::new("/var/lib/x.db"));
    let attestors = minimal("node_attestors: { x509pop: { ca_bundle_path: ca.pem } }\n").node_attestors;
    assert!(attestors.join_token.is_none() && attestors.x509pop.is_some());
}

#[test]
fn an_unknown_key_names_the_nearest_one() {
    let text = "trust_domain: cloud.example\ndata_dir: data\ndefault_x509_svid_tl: 1h\n";
    let error = from_str::<Config>(text, "issuer.yaml", ENV_PREFIX, []).unwrap_err().to_string();
    assert!(error.contains("`default_x509_svid_tl`") && error.contains("`default_x509_svid_ttl`"), "{error}");
}

#[test]
fn the_environment_overrides_the_file() {
    let environment = [("ENTENTE_ISSUER__BIND_PORT".to_owned(), "9090".to_owned())];
    let text = "trust_domain: cloud.example\ndata_dir: data\nbind_port: 1\n";
    let config: Config = from_str(text, "issuer.yaml", ENV_PREFIX, environment).unwrap();
    assert_eq!(config.bind_port, 9090);
}

#[test]
fn every_mistake_is_named_with_its_remedy() {
    let mut config = minimal("");
    config.trust_domain = "Cloud Example".into();
    let error = config.check().unwrap_err().to_string();
    assert!(error.starts_with("trust_domain `Cloud Example` is not valid: "), "{error}");
    assert!(error.ends_with("write a bare name such as example.org"), "{error}");
    assert_eq!(problem("ca_ttl: 0s"), "ca_ttl is 0s; use a value from 1s to 175200h, such as 24h");
    assert!(problem("default_jwt_svid_ttl: 500ms").starts_with("default_jwt_svid_ttl is 500ms"));
    assert!(problem("agent_ttl: 200000h").starts_with("agent_ttl is 200000h"));
    assert!(problem("cache_reload_interval: 0").starts_with("cache_reload_interval is 0s"));
    assert!(problem("admin_ids: [bad]").contains("admin_ids holds `bad`"));
    assert!(problem("admin_ids: ['spiffe://cloud.example']").contains("path is empty"));
    assert!(problem("bind_address: ''").starts_with("bind_address must not be empty"));
    assert!(problem("bind_address: 300.1.1.1.").starts_with("bind_address `300.1.1.1.` is neither"));
    assert!(problem(&format!("socket_path: /{}", "a".repeat(120))).contains("longer than 107 bytes"));
    assert!(problem("jwt_issuer: ''").starts_with("jwt_issuer must not be empty"));
    assert!(problem("node_attestors: {}").starts_with("node_attestors names no method"));
    assert!(problem("node_attestors: { x509pop: {} }").starts_with("node_attestors.x509pop: "));
    let upstream = "upstream_authority: { disk: { cert_file_path: '', key_file_path: key.pem } }";
    assert!(problem(upstream).starts_with("upstream_authority.disk.cert_file_path must not be empty"));
}

#[test]
fn negative_lifetimes_and_bare_numbers_are_refused_when_read() {
    for value in ["-1h", "3600"] {
        let text = format!("trust_domain: cloud.example\ndata_dir: data\nca_ttl: {value}\n");
        let error = from_str::<Config>(&text, "issuer.yaml", ENV_PREFIX, []).unwrap_err().to_string();
        assert!(error.contains("`ca_ttl`") && error.contains("is not a duration"), "{error}");
    }
}

#[test]
fn lifetimes_the_ca_cannot_always_give_are_warned_about() {
    let checked = minimal("ca_ttl: 1h\n").check().unwrap();
    assert_eq!(checked.warnings.len(), 2, "{:?}", checked.warnings);
    assert!(checked.warnings[0].starts_with("default_x509_svid_ttl (1h) is longer than a CA with ca_ttl 1h"));
    assert!(minimal("ca_ttl: 8760h\ndefault_x509_svid_ttl: 169h\n").check().unwrap().warnings.len() == 2);
}
