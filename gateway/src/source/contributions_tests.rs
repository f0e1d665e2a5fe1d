use federation_specs::bundle::{JwtAuthority, X509Authority};
use time::macros::datetime;

use super::*;

const NOON: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

fn domain() -> TrustDomain {
    TrustDomain::parse("cloud.example").unwrap()
}

fn x509(name: &str) -> X509Authority {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    X509Authority::from_der(params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der()).unwrap()
}

fn jwt(id: &str) -> JwtAuthority {
    let key = service_kit::keys::PrivateKey::generate(service_kit::keys::KeyType::EcP256).unwrap();
    JwtAuthority::new(id, key.public_key().clone(), None, false).unwrap()
}

fn bundle(x509: &[&X509Authority], jwt: &[&JwtAuthority], sequence: u64) -> Bundle {
    Bundle::new(domain())
        .with_x509_authorities(x509.iter().copied().cloned())
        .with_jwt_authorities(jwt.iter().copied().cloned())
        .with_sequence(Some(sequence))
}

fn contributions(count: usize) -> Contributions {
    Contributions::new(domain(), (0..count).map(|index| format!("file {index}")))
}

#[test]
fn one_source_is_passed_on_as_it_is() {
    let sources = contributions(1);
    assert!(sources.merged(None).is_none());
    let (a, b) = (x509("a"), x509("b"));
    let first = bundle(&[&a], &[], 7);
    assert_eq!(sources.offer(0, &first, NOON), Offer::Accepted);
    assert_eq!(sources.merged(None).unwrap(), first);
    assert_eq!(sources.offer(0, &first, NOON), Offer::Accepted);
    // Same number, other keys: it is the source's number all the same.
    let second = bundle(&[&b], &[], 7);
    sources.offer(0, &second, NOON);
    assert_eq!(sources.merged(Some(&first)).unwrap(), second);
}

#[test]
fn what_was_published_goes_on_where_a_single_source_starts_again() {
    let sources = contributions(1);
    let (a, b) = (x509("a"), x509("b"));
    sources.offer(0, &bundle(&[&a], &[], 7), NOON);
    let published = sources.merged(None).unwrap();
    sources.published();
    sources.offer(0, &bundle(&[&b], &[], 2), NOON);
    let offers = sources.held_offers();
    let published = sources.merged_with(&offers, Some(&published)).unwrap();
    sources.accepted(&offers);
    sources.published();
    assert_eq!(published.sequence(), Some(8));
    // Replicas see the same number, whichever changes they missed.
    for (number, expected) in [(2, 8), (3, 9), (6, 12)] {
        sources.offer(0, &bundle(&[&b], &[], number), NOON);
        assert_eq!(sources.merged(Some(&published)).unwrap().sequence(), Some(expected));
    }
    sources.offer(0, &bundle(&[&b], &[], 40), NOON);
    assert_eq!(sources.merged(Some(&published)).unwrap().sequence(), Some(46));
}

#[test]
fn keys_of_several_sources_are_joined() {
    let sources = contributions(2);
    let (a, b, k, l) = (x509("a"), x509("b"), jwt("k"), jwt("l"));
    sources.offer(1, &bundle(&[&a, &b.clone().with_tainted(true)], &[&k, &l], 5), NOON);
    let alone = sources.merged(None).unwrap();
    assert_eq!((alone.x509_authorities().len(), alone.sequence()), (2, Some(5)));
    let other_k = jwt("k");
    sources.offer(0, &bundle(&[&b], &[&other_k], 3), NOON);
    let both = sources.merged(Some(&alone)).unwrap();
    assert_eq!(both.x509_authorities(), [b.with_tainted(true), a]);
    assert_eq!(both.find_jwt("k").unwrap().public_key(), other_k.public_key(), "the source listed first counts");
    assert!(both.find_jwt("l").is_some());
    assert_eq!(both.sequence(), Some(8), "the sum");
}

#[test]
fn the_sequence_of_a_union_never_goes_back() {
    let sources = contributions(2);
    let (a, b, c) = (x509("a"), x509("b"), x509("c"));
    sources.offer(0, &bundle(&[&a], &[], 3), NOON);
    sources.offer(1, &bundle(&[&b], &[], 5), NOON);
    let before = bundle(&[&a, &b], &[], 100);
    assert_eq!(sources.merged(Some(&before)).unwrap().sequence(), Some(100), "same keys, nothing new");
    sources.offer(1, &bundle(&[&c], &[], 6), NOON);
    assert_eq!(sources.merged(Some(&before)).unwrap().sequence(), Some(101));
    // One source without numbers: the union has none.
    let sources = contributions(2);
    sources.offer(0, &bundle(&[&a], &[], 0), NOON);
    sources.offer(1, &bundle(&[&b], &[], 5), NOON);
    assert_eq!(sources.merged(Some(&before)).unwrap().sequence(), None);
}

#[test]
fn a_rollback_does_not_slip_through_a_bundle_without_number() {
    let sources = contributions(1);
    let (a, b) = (x509("a"), x509("b"));
    sources.offer(0, &bundle(&[&a], &[], 7), NOON);
    let reason = HeldReason::Unnumbered { accepted: 7 };
    assert_eq!(sources.offer(0, &bundle(&[&b], &[], 0), NOON), Offer::Held { reason, news: true });
    let reason = HeldReason::RolledBack { accepted: 7, offered: 3 };
    assert_eq!(sources.offer(0, &bundle(&[&b], &[], 3), NOON), Offer::Held { reason, news: true });
    // Another kind of source in its place, as the operator says.
    sources.offer(0, &bundle(&[&b], &[], 0), NOON);
    sources.accepted(&sources.held_offers());
    assert_eq!(sources.offer(0, &bundle(&[&a], &[], 0), NOON), Offer::Accepted);
}

#[test]
fn emptied_and_rolled_back_sources_are_held_until_they_recover_or_are_accepted() {
    let sources = contributions(2);
    let (a, b) = (x509("a"), x509("b"));
    sources.offer(0, &bundle(&[&a], &[], 4), NOON);
    sources.offer(1, &bundle(&[&b], &[], 9), NOON);
    let before = sources.merged(None).unwrap();

    let emptied = Offer::Held { reason: HeldReason::Emptied, news: true };
    assert_eq!(sources.offer(0, &bundle(&[], &[], 5), NOON), emptied);
    let again = Offer::Held { reason: HeldReason::Emptied, news: false };
    assert_eq!(sources.offer(0, &bundle(&[], &[], 5), NOON), again);
    let reason = HeldReason::RolledBack { accepted: 9, offered: 2 };
    assert_eq!(sources.offer(1, &bundle(&[&a], &[], 2), NOON), Offer::Held { reason, news: true });
    assert_eq!(sources.held(), 2);
    assert!(sources.held_in_words().unwrap().contains("went back from sequence 9 to 2"));
    assert_eq!(sources.merged(Some(&before)).unwrap(), before, "what counted before still does");

    assert_eq!(sources.offer(0, &bundle(&[&a], &[], 4), NOON), Offer::Accepted);
    assert_eq!(sources.held(), 1);
    let offers = sources.held_offers();
    assert_eq!(offers.len(), 1);
    assert_eq!((offers[0].key.as_str(), offers[0].bundle.sequence()), ("file 1", Some(2)));
    let would_be = sources.merged_with(&offers, Some(&before)).unwrap();
    assert_eq!(sources.merged(Some(&before)).unwrap(), before, "nothing happened yet");
    sources.accepted(&offers);
    let after = sources.merged(Some(&before)).unwrap();
    assert_eq!((after.x509_authorities().len(), after.sequence()), (1, Some(14)), "13 was published before");
    assert_eq!(after, would_be);
    assert_eq!(sources.held_in_words(), None);
}

#[test]
fn failures_remember_since_when() {
    let sources = contributions(2);
    sources.failed(0, "gone", NOON);
    sources.failed(0, "still gone", NOON + time::Duration::MINUTE);
    assert_eq!(sources.failing_since(), Some(NOON));
    assert_eq!(sources.status()[0].last_error.as_deref(), Some("still gone"));
    sources.offer(0, &bundle(&[&x509("a")], &[], 1), NOON);
    assert_eq!(sources.failing_since(), None);
}

#[test]
fn what_the_store_lacks_is_known_also_after_a_restart() {
    let sources = contributions(1);
    let a = x509("a");
    let save = |sources: &Contributions| {
        let unsaved = sources.unsaved(0).unwrap();
        sources.saved(0, unsaved.record.clone());
        unsaved
    };
    assert!(sources.unsaved(0).is_none());
    sources.offer(0, &bundle(&[&a], &[], 4), NOON);
    assert!(save(&sources).newly_held.is_none());
    assert!(sources.unsaved(0).is_none());

    let reason = HeldReason::RolledBack { accepted: 4, offered: 2 };
    sources.offer(0, &bundle(&[&a], &[], 2), NOON);
    assert_eq!(sources.unsaved(0).unwrap().newly_held.unwrap().1, reason, "until it is saved");
    let held = save(&sources);
    assert!(!held.was_held && held.newly_held.is_some());
    // The same keys with another number are no news, other keys are.
    sources.offer(0, &bundle(&[&a], &[], 3), NOON + time::Duration::HOUR);
    assert!(sources.unsaved(0).is_none());

    let restarted = contributions(1);
    restarted.restore("file 0", held.record);
    restarted.offer(0, &bundle(&[&a], &[], 2), NOON + time::Duration::HOUR);
    assert!(restarted.unsaved(0).is_none(), "held before the restart already");
    assert_eq!(restarted.status()[0].held_since, Some(NOON));
    restarted.offer(0, &bundle(&[&x509("b")], &[], 2), NOON + time::Duration::HOUR);
    assert!(save(&restarted).newly_held.is_some());
    restarted.offer(0, &bundle(&[&a], &[], 5), NOON + time::Duration::HOUR);
    let released = save(&restarted);
    assert!(released.was_held && released.record.held.is_none() && released.newly_held.is_none());
}
