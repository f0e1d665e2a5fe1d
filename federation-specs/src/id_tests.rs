use proptest::prelude::*;

use super::*;

fn error(text: &str) -> IdError {
    SpiffeId::parse(text).unwrap_err()
}

#[test]
fn parts_of_an_id() {
    let id = SpiffeId::parse("spiffe://cloud.example/ns/prod/sa/Web_1").unwrap();
    assert_eq!(id.trust_domain().as_str(), "cloud.example");
    assert_eq!(id.path(), "/ns/prod/sa/Web_1");
    assert_eq!(id.to_string(), "spiffe://cloud.example/ns/prod/sa/Web_1");
    assert_eq!(SpiffeId::parse("spiffe://a-b_c.9").unwrap().path(), "");
    assert_eq!(TrustDomain::parse("td").unwrap().server_id().as_str(), "spiffe://td/spire/server");
}

#[test]
fn each_rule_names_itself() {
    assert_eq!(error(""), IdError::Empty);
    assert_eq!(error("SPIFFE://td/a"), IdError::Scheme);
    assert_eq!(error("spiffe:/td"), IdError::Scheme);
    assert_eq!(error("https://td/a"), IdError::Scheme);
    assert_eq!(error("spiffe://"), IdError::MissingTrustDomain);
    assert_eq!(error("spiffe:///a"), IdError::MissingTrustDomain);
    for name in ["TD", "t d", "td:80", "user@td", "tä", "td%41", "td?q", "td#f"] {
        assert_eq!(error(&format!("spiffe://{name}/a")), IdError::TrustDomainCharacter, "{name}");
    }
    assert_eq!(error("spiffe://td/"), IdError::TrailingSlash);
    assert_eq!(error("spiffe://td/a/"), IdError::TrailingSlash);
    assert_eq!(error("spiffe://td//a"), IdError::EmptySegment);
    assert_eq!(error("spiffe://td/./a"), IdError::DotSegment);
    assert_eq!(error("spiffe://td/a/.."), IdError::DotSegment);
    for path in ["/a b", "/%41", "/a?q", "/a#f", "/ä", "/a:b", "/a\0"] {
        assert_eq!(error(&format!("spiffe://td{path}")), IdError::PathCharacter, "{path}");
    }
    let trust_domain = TrustDomain::parse("td").unwrap();
    assert_eq!(SpiffeId::from_parts(&trust_domain, "a").unwrap_err(), IdError::NoLeadingSlash);
    assert!(SpiffeId::parse("spiffe://td/...").is_ok());
}

#[test]
fn lengths_are_exact() {
    assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
    assert_eq!(TrustDomain::parse(&"a".repeat(256)).unwrap_err(), IdError::TrustDomainTooLong);
    let fits = format!("spiffe://td/{}", "p".repeat(2048 - 12));
    assert_eq!(fits.len(), 2048);
    assert!(SpiffeId::parse(&fits).is_ok());
    assert_eq!(error(&format!("{fits}p")), IdError::TooLong);
    let trust_domain = TrustDomain::parse("td").unwrap();
    assert_eq!(SpiffeId::from_parts(&trust_domain, &format!("/{}", "p".repeat(2037))).unwrap_err(), IdError::TooLong);
}

#[test]
fn names_and_ids_are_taken_for_a_trust_domain() {
    for text in ["cloud.example", "spiffe://cloud.example", "spiffe://cloud.example/any/path"] {
        assert_eq!(TrustDomain::from_name_or_id(text).unwrap().as_str(), "cloud.example");
    }
    assert_eq!(TrustDomain::from_name_or_id("").unwrap_err(), IdError::MissingTrustDomain);
    assert_eq!(TrustDomain::from_name_or_id("http://cloud.example").unwrap_err(), IdError::Scheme);
    assert!(TrustDomain::parse("spiffe://cloud.example").is_err());
}

#[test]
fn roles_follow_from_the_path() {
    let trust_domain = TrustDomain::parse("td").unwrap();
    let other = TrustDomain::parse("other").unwrap();
    let id = |path: &str| SpiffeId::from_parts(&trust_domain, path).unwrap();
    assert!(id("/x").is_member_of(&trust_domain) && !id("").is_member_of(&trust_domain));
    assert!(!id("/x").is_member_of(&other));
    assert!(id("/spire").is_reserved() && id("/spire/x").is_reserved() && !id("/spirex").is_reserved());
    assert!(id("/spire/agent/x").is_agent() && !id("/spire/agent").is_agent());
    assert!(id("/spire/server").is_server() && !id("/spire/server/x").is_server());
    assert!(id("/spirex").is_workload() && !id("").is_workload() && !id("/spire/x").is_workload());
}

#[test]
fn wrong_roles_are_told_in_the_words_of_the_wire() {
    let trust_domain = TrustDomain::parse("cloud.example").unwrap();
    let id = |text: &str| SpiffeId::parse(text).unwrap();
    assert_eq!(
        id("spiffe://other.example/m").require_workload(&trust_domain).unwrap_err().to_string(),
        "\"spiffe://other.example/m\" is not a member of trust domain \"cloud.example\""
    );
    assert_eq!(
        id("spiffe://cloud.example").require_member(&trust_domain).unwrap_err().to_string(),
        "\"spiffe://cloud.example\" is not a member of trust domain \"cloud.example\"; path is empty"
    );
    assert_eq!(
        id("spiffe://cloud.example/spire/x").require_workload(&trust_domain).unwrap_err().to_string(),
        "\"spiffe://cloud.example/spire/x\" is not a workload in trust domain \"cloud.example\"; path is in the reserved namespace"
    );
    assert_eq!(
        id("spiffe://cloud.example/foo").require_agent(&trust_domain).unwrap_err().to_string(),
        "\"spiffe://cloud.example/foo\" is not an agent in trust domain \"cloud.example\"; path is not in the agent namespace"
    );
}

#[test]
fn json_form_is_the_text() {
    let id = SpiffeId::parse("spiffe://td/a").unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://td/a\"");
    assert_eq!(serde_json::from_str::<SpiffeId>("\"spiffe://td/a\"").unwrap(), id);
    let message = serde_json::from_str::<SpiffeId>("\"spiffe://TD/a\"").unwrap_err().to_string();
    assert!(message.starts_with("`spiffe://TD/a`: trust domain characters"), "{message}");
}

proptest! {
    #[test]
    fn valid_ids_round_trip(name in "[a-z0-9._-]{1,64}", segments in prop::collection::vec("[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", 0..8)) {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        let trust_domain = TrustDomain::parse(&name).unwrap();
        let id = SpiffeId::from_parts(&trust_domain, &path).unwrap();
        prop_assert_eq!(&SpiffeId::parse(&format!("{id}")).unwrap(), &id);
        prop_assert_eq!(id.path(), path);
        prop_assert_eq!(id.trust_domain(), &trust_domain);
    }

    #[test]
    fn whatever_parses_prints_as_it_was(text in "(spiffe://)?[a-zA-Z0-9/:._%?# -]{0,40}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}
