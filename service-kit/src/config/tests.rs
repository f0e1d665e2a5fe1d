use super::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Example {
    trust_domain: String,
    #[serde(default)]
    bind_port: Option<u16>,
    #[serde(default)]
    health: Section,
    #[serde(default)]
    key_manager: Option<KeyManager>,
    #[serde(default)]
    relationships: Vec<Relationship>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Section {
    listener_enabled: bool,
    interval: HumanDuration,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum KeyManager {
    Disk { keys_path: Option<PathBuf> },
    Memory {},
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Relationship {
    trust_domain: String,
    url: String,
}

fn parse(text: &str) -> Result<Example, ConfigError> {
    from_str(text, "test.yaml", "ENTENTE_TEST", [])
}

fn parse_with(text: &str, environment: &[(&str, &str)]) -> Result<Example, ConfigError> {
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    from_str(text, "test.yaml", "ENTENTE_TEST", environment)
}

#[test]
fn reads_yaml_and_json() {
    let text = "
trust_domain: example.org
health: { listener_enabled: true, interval: 1m30s }
key_manager:
  disk: { keys_path: /k }
relationships:
  - { trust_domain: a.example, url: 'https://a.example' }
labels: { anything: goes }
";
    let parsed = parse(text).unwrap();
    assert_eq!(parsed.health.interval, HumanDuration::from_secs(90));
    assert_eq!(parsed.key_manager, Some(KeyManager::Disk { keys_path: Some("/k".into()) }));
    let json = serde_json::to_string(&parsed).unwrap();
    assert_eq!(parse(&json).unwrap(), parsed);
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    for (text, expected) in [
        ("trust_domian: x", "unknown key `trust_domian` in test.yaml; did you mean `trust_domain`?"),
        (
            "trust_domain: x\nhealth: {listener_enable: true}",
            "unknown key `health.listener_enable` in test.yaml; did you mean `listener_enabled`?",
        ),
        (
            "trust_domain: x\nrelationships: [{trust_domain: a, ulr: b}]",
            "unknown key `relationships[0].ulr` in test.yaml; did you mean `url`?",
        ),
        (
            "trust_domain: x\nkey_manager: {disk: {key_path: a}}",
            "unknown key `key_manager.disk.key_path` in test.yaml; did you mean `keys_path`?",
        ),
        (
            "trust_domain: x\nkey_manager: {dsik: {}}",
            "unknown key `key_manager.dsik` in test.yaml; did you mean `disk`?",
        ),
        ("zzz: 1", "unknown key `zzz` in test.yaml"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn wrong_values_name_the_setting() {
    for (text, expected) in [
        ("{}", "missing field `trust_domain`"),
        ("", "missing field `trust_domain`"),
        ("# only a comment\n", "missing field `trust_domain`"),
        ("trust_domain: x\nbind_port: many", "`bind_port`: invalid type"),
        ("trust_domain: x\nhealth: {interval: 5}", "`health.interval`: `5` is not a duration"),
        ("trust_domain: x\nrelationships: [{trust_domain: a}]", "`relationships[0]`: missing field `url`"),
        ("- a\n- b", "expected `key: value` lines"),
        ("trust_domain: [", "is not valid YAML: line 1 column 15: unclosed bracket"),
        ("trust_domain: a\ntrust_domain: b", "is not valid YAML: line 2 column 1: duplicate mapping key: trust_domain"),
        ("just words", "expected `key: value` lines"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("test.yaml"), "{text:?}: {error}");
        assert!(!error.contains('\n') && !error.contains("Options"), "{error}");
    }
}

#[test]
fn the_environment_overrides() {
    let parsed = parse_with(
        "trust_domain: x\nhealth: {interval: 5s}",
        &[
            ("ENTENTE_TEST__TRUST_DOMAIN", "example.org"),
            ("ENTENTE_TEST__BIND_PORT", "8081"),
            ("ENTENTE_TEST__HEALTH__LISTENER_ENABLED", "true"),
            ("ENTENTE_TEST__KEY_MANAGER__MEMORY", "{}"),
            ("ENTENTE_TESTING__BIND_PORT", "1"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!((parsed.trust_domain.as_str(), parsed.bind_port), ("example.org", Some(8081)));
    assert_eq!(parsed.health, Section { listener_enabled: true, interval: HumanDuration::from_secs(5) });
    assert_eq!(parsed.key_manager, Some(KeyManager::Memory {}));

    let error = parse_with("trust_domain: x", &[("ENTENTE_TEST__BIND_PROT", "1")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown key `bind_prot` in environment variable ENTENTE_TEST__BIND_PROT; did you mean `bind_port`?"
    );
}

#[test]
fn text_settings_that_look_like_numbers_stay_text() {
    let parsed = parse_with("trust_domain: 123", &[]);
    // A YAML number is not a name; quoting it makes it one.
    assert!(parsed.unwrap_err().to_string().contains("`trust_domain`"));
    assert_eq!(parse("trust_domain: '123'").unwrap().trust_domain, "123");
    assert_eq!(parse_with("trust_domain: a", &[("ENTENTE_TEST__TRUST_DOMAIN", "123")]).unwrap().trust_domain, "123");
}

#[test]
fn files_missing_too_large_or_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("issuer.yaml");
    let error = load::<Example>(&path, "ENTENTE_TEST").unwrap_err();
    assert!(matches!(error, ConfigError::Missing { .. }) && error.to_string().contains("--config"), "{error}");
    std::fs::write(&path, vec![b'#'; usize::try_from(MAX_CONFIG_BYTES).unwrap() + 1]).unwrap();
    assert!(matches!(load::<Example>(&path, "ENTENTE_TEST"), Err(ConfigError::TooLarge { .. })));
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(load::<Example>(&path, "ENTENTE_TEST"), Err(ConfigError::Unreadable { .. })));
    std::fs::write(&path, "trust_domain: example.org").unwrap();
    assert_eq!(load::<Example>(&path, "ENTENTE_TEST").unwrap().trust_domain, "example.org");
}

#[test]
fn flags_lie_over_the_file_and_need_none() {
    let flags = || [FlagSetting::new("trustDomain", "trust_domain", "123"), FlagSetting::new("port", "bind_port", "9")];
    let parsed: Example = load_with_flags(None, "ENTENTE_TEST", flags()).unwrap();
    assert_eq!((parsed.trust_domain.as_str(), parsed.bind_port), ("123", Some(9)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("issuer.yaml");
    std::fs::write(&path, "trust_domain: example.org\nbind_port: 1\nhealth: {interval: 5s}").unwrap();
    let parsed: Example = load_with_flags(Some(&path), "ENTENTE_TEST", flags()).unwrap();
    assert_eq!((parsed.bind_port, parsed.health.interval), (Some(9), HumanDuration::from_secs(5)));
    let bad = [FlagSetting::new("port", "bind_prot", "9")];
    let error = load_with_flags::<Example>(Some(&path), "ENTENTE_TEST", bad).unwrap_err();
    assert_eq!(error.to_string(), "unknown key `bind_prot` in flag -port; did you mean `bind_port`?");
}

#[test]
fn schema_knows_the_settings() {
    let schema = schema::<Example>();
    assert_eq!(schema["properties"]["trust_domain"]["type"], "string");
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["$defs"]["Duration"]["pattern"].is_string());
}

#[test]
fn several_documents_are_read_each_with_its_keys_checked() {
    let read = |text: &str| documents::<Section>(text, "sections.yaml").map_err(|error| error.to_string());
    assert_eq!(read("").unwrap(), []);
    assert_eq!(read("# nothing\n---\n# nothing\n").unwrap(), []);
    let two = read("---\ninterval: 5s\n---\n# between\n---\n{\"listener_enabled\": true}\n").unwrap();
    assert_eq!(two.len(), 2);
    assert!(two[1].listener_enabled && two[0].interval == HumanDuration::from_secs(5));
    let unknown = read("interval: 5s\n---\nintervall: 5s\n").unwrap_err();
    assert!(unknown.contains("unknown key `intervall` in sections.yaml; did you mean `interval`?"), "{unknown}");
    assert!(read("interval: 5\n").unwrap_err().contains("`interval`: `5` is not a duration"));
    assert!(read("- a\n").unwrap_err().contains("expected `key: value` lines"));
    assert!(read("interval: 1s\ninterval: 2s\n").unwrap_err().contains("sections.yaml is not valid YAML"));
}
