//! Entries, SVIDs and bundles on their way from the issuer to streams.

use std::{sync::Arc, time::Duration};

use federation_specs::{
    bundle::BundleSet,
    convert,
    id::TrustDomain,
    proto::workload::X509svidResponse,
    x509_svid::{split_der_certificates, verify_chain},
};
use service_kit::clock::Clock;
use tonic::{Code, Streaming};

use super::{
    agent::{Node, Running, Workload, ids, is_silent, next, own_uid, until},
    authority::Authority,
    issuer::FakeIssuer,
};

async fn start(issuer: &FakeIssuer) -> (Node, Running, Workload) {
    let node = Node::new(issuer).with_token("t-1");
    issuer.token("t-1");
    let agent = node.start();
    let workload = node.workload().await;
    (node, agent, workload)
}

/// The next message of a stream, with the clock going on until it comes.
async fn next_after(
    node: &Node,
    step: Duration,
    mut stream: Streaming<X509svidResponse>,
) -> (Result<X509svidResponse, tonic::Status>, Streaming<X509svidResponse>) {
    let waiting = tokio::spawn(async move {
        let message = next(&mut stream).await;
        (message, stream)
    });
    node.advance_by_until(step, "a message", async || waiting.is_finished()).await;
    waiting.await.unwrap()
}

const STEP: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn svids_verify_and_carry_everything() {
    let issuer = FakeIssuer::start().await;
    let other = Authority::new("onprem.example");
    {
        let mut state = issuer.state();
        state.federated.insert("onprem.example".into(), convert::bundle_to_proto(&other.bundle()));
        state.entry("b", "second", &[&own_uid()], |entry| entry.hint = "internal".into());
        state.entry("a", "first", &[&own_uid()], |entry| entry.federates_with = vec!["onprem.example".into()]);
        state.entry("c", "other", &["unix:uid:4294967294"], |_| {});
    }
    let (_node, agent, workload) = start(&issuer).await;
    let response = workload.x509().await.unwrap();
    assert_eq!(ids(&response), ["first", "second"]);
    assert_eq!(response.svids.iter().map(|svid| svid.hint.as_str()).collect::<Vec<_>>(), ["", "internal"]);
    assert_eq!(response.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://onprem.example"]);
    assert_eq!(response.federated_bundles["spiffe://onprem.example"], other.certificate_der());
    assert!(response.crl.is_empty());
    let authority = Arc::clone(&issuer.state().authority);
    let bundles = BundleSet::from_iter([Arc::new(authority.bundle())]);
    for svid in &response.svids {
        assert_eq!(svid.bundle, authority.certificate_der());
        let chain = split_der_certificates(&svid.x509_svid).unwrap();
        let verified = verify_chain(&chain, &bundles, issuer.clock.now()).unwrap();
        assert_eq!(verified.id().to_string(), svid.spiffe_id);
        let key = service_kit::keys::PrivateKey::from_pkcs8(&svid.x509_svid_key).unwrap();
        assert_eq!(verified.leaf().public_key().unwrap(), key.public_key());
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_get_what_changes_for_them_and_nothing_else() {
    let issuer = FakeIssuer::start().await;
    issuer.state().entry("a", "first", &[&own_uid()], |_| {});
    let (node, agent, workload) = start(&issuer).await;
    let mut stream = workload.x509_stream().await.unwrap();
    assert_eq!(ids(&next(&mut stream).await.unwrap()), ["first"]);
    let mut jwt = workload.jwt_bundles_stream().await.unwrap();
    assert_eq!(next(&mut jwt).await.unwrap().bundles.len(), 1);
    let mut x509_bundles = workload.x509_bundles_stream().await.unwrap();
    assert_eq!(next(&mut x509_bundles).await.unwrap().bundles.len(), 1);

    // An entry for somebody else, and a JWT key: nothing for the X.509 streams.
    let rounds = issuer.calls("SyncAuthorizedEntries");
    {
        let mut state = issuer.state();
        state.entry("z", "other", &["unix:uid:4294967294"], |_| {});
        let mut bundle = state.own_bundle();
        let mut key = bundle.jwt_authorities[0].clone();
        key.key_id = "another".into();
        bundle.jwt_authorities.push(key);
        state.own_bundle = Some(bundle);
    }
    node.advance_until("two rounds", async || issuer.calls("SyncAuthorizedEntries") > rounds + 1).await;
    let bundle = next(&mut jwt).await.unwrap();
    assert!(String::from_utf8_lossy(&bundle.bundles["spiffe://cloud.example"]).contains("another"));
    assert!(is_silent(&mut stream).await && is_silent(&mut x509_bundles).await);

    // Another X.509 authority: for every X.509 stream, not for the JWT one.
    {
        let mut state = issuer.state();
        let mut bundle = state.own_bundle();
        let asn1 = Authority::new("cloud.example").certificate_der();
        bundle.x509_authorities.push(federation_specs::proto::types::X509Certificate { asn1, tainted: false });
        state.own_bundle = Some(bundle);
    }
    let (message, mut stream) = next_after(&node, STEP, stream).await;
    assert_eq!(split_der_certificates(&message.unwrap().svids[0].bundle).unwrap().len(), 2);
    next(&mut x509_bundles).await.unwrap();
    assert!(is_silent(&mut jwt).await);

    // A new identity, then a changed one, then none: the stream ends.
    issuer.state().entry("b", "second", &[&own_uid()], |_| {});
    let (message, again) = next_after(&node, STEP, stream).await;
    assert_eq!(ids(&message.unwrap()), ["first", "second"]);
    issuer.state().entry("b", "renamed", &[&own_uid()], |_| {});
    let (message, again) = next_after(&node, STEP, again).await;
    assert_eq!(ids(&message.unwrap()), ["first", "renamed"]);
    issuer.state().entries.clear();
    stream = again;
    let (message, _) = next_after(&node, STEP, stream).await;
    let status = message.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
    assert_eq!(next(&mut jwt).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(next(&mut x509_bundles).await.unwrap_err().code(), Code::PermissionDenied);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x509_svids_rotate_before_they_expire() {
    let issuer = FakeIssuer::start().await;
    {
        let mut state = issuer.state();
        state.entry("a", "first", &[&own_uid()], |_| {});
        state.svid_ttl = time::Duration::minutes(10);
    }
    let (node, agent, workload) = start(&issuer).await;
    let mut stream = workload.x509_stream().await.unwrap();
    let mut last = next(&mut stream).await.unwrap();
    for _ in 0..3 {
        let before = issuer.clock.now();
        let (message, again) = next_after(&node, Duration::from_secs(2), stream).await;
        let message = message.unwrap();
        let elapsed = issuer.clock.now() - before;
        assert!(
            elapsed > time::Duration::minutes(4) && elapsed < time::Duration::minutes(7),
            "rotated after {elapsed}"
        );
        assert_ne!(message.svids[0].x509_svid, last.svids[0].x509_svid);
        assert_ne!(message.svids[0].x509_svid_key, last.svids[0].x509_svid_key);
        (last, stream) = (message, again);
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failing_entry_or_bundle_costs_only_itself() {
    let issuer = FakeIssuer::start().await;
    let (good, bad) = (Authority::new("good.example"), Authority::new("bad.example"));
    {
        let mut state = issuer.state();
        let federated = ["good.example", "bad.example", "missing.example", "poisoned.example"];
        state.entry("a", "first", &[&own_uid()], |entry| entry.federates_with = federated.map(String::from).to_vec());
        state.entry("b", "unsignable", &[&own_uid()], |_| {});
        state.entry("c", "malformed", &[&own_uid()], |entry| entry.spiffe_id = None);
        state.entry("d", "second", &[&own_uid()], |_| {});
        state.federated.insert("good.example".into(), convert::bundle_to_proto(&good.bundle()));
        state.federated.insert("bad.example".into(), convert::bundle_to_proto(&bad.bundle()));
        let mut poisoned = convert::bundle_to_proto(&good.bundle());
        poisoned.trust_domain = "poisoned.example".into();
        poisoned.x509_authorities.push(Default::default());
        state.federated.insert("poisoned.example".into(), poisoned);
        state.unsignable.insert("b".into());
        state.unfetchable.insert("bad.example".into());
    }
    let (node, agent, workload) = start(&issuer).await;
    let stream = workload.x509_stream().await.unwrap();
    let (message, stream) = next_after(&node, STEP, stream).await;
    let message = message.unwrap();
    assert_eq!(ids(&message), ["first", "second"]);
    let mut federated: Vec<_> = message.federated_bundles.keys().cloned().collect();
    federated.sort();
    assert_eq!(federated, ["spiffe://good.example", "spiffe://poisoned.example"]);

    // What failed is tried again and joins.
    {
        let mut state = issuer.state();
        state.unsignable.clear();
        state.unfetchable.clear();
    }
    let mut stream = stream;
    let mut last = message;
    while ids(&last) != ["first", "unsignable", "second"] || last.federated_bundles.len() != 3 {
        let (message, again) = next_after(&node, STEP, stream).await;
        (last, stream) = (message.unwrap(), again);
    }
    // A bundle whose fetch fails stays; one that the issuer has no more goes.
    issuer.state().unfetchable.insert("bad.example".into());
    issuer.state().federated.remove("good.example");
    let (message, _) = next_after(&node, STEP, stream).await;
    let mut federated: Vec<_> = message.unwrap().federated_bundles.keys().cloned().collect();
    federated.sort();
    assert_eq!(federated, ["spiffe://bad.example", "spiffe://poisoned.example"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_entries_are_synchronised_by_revision_and_signed_in_batches() {
    let issuer = FakeIssuer::start().await;
    {
        let mut state = issuer.state();
        for number in 0..1201 {
            state.entry(&format!("s-{number:04}"), &format!("s/{number}"), &["unix:uid:4294967294"], |_| {});
        }
        state.entry("t", "mine", &[&own_uid()], |_| {});
    }
    let (node, agent, workload) = start(&issuer).await;
    assert_eq!(ids(&workload.x509().await.unwrap()), ["mine"]);
    assert_eq!(issuer.calls("entries asked for"), 1202);
    // 1000 SVIDs in all are kept ready, those followed among them.
    until("the SVIDs", async || issuer.state().batches.iter().sum::<usize>() >= 1000).await;
    assert!(issuer.state().batches.iter().all(|size| *size <= 500));
    assert_eq!(issuer.state().batches.iter().sum::<usize>(), 1000);

    issuer.state().entry("s-0700", "s/changed", &[&own_uid()], |_| {});
    let mut stream = workload.x509_stream().await.unwrap();
    let first = next(&mut stream).await.unwrap();
    let message = if ids(&first).len() == 2 { first } else { next_after(&node, STEP, stream).await.0.unwrap() };
    assert_eq!(ids(&message), ["s/changed", "mine"]);
    assert_eq!(issuer.calls("entries asked for"), 1203);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn svids_of_tainted_authorities_are_replaced() {
    let issuer = FakeIssuer::start().await;
    issuer.state().entry("a", "first", &[&own_uid()], |_| {});
    let (node, agent, workload) = start(&issuer).await;
    let mut stream = workload.x509_stream().await.unwrap();
    let old = next(&mut stream).await.unwrap();
    let old_token = workload.jwt(&["x"], "").await.unwrap().svids[0].svid.clone();
    assert_eq!(workload.jwt(&["x"], "").await.unwrap().svids[0].svid, old_token);

    // The issuer has another authority, and the old one is tainted.
    {
        let mut state = issuer.state();
        let mut bundle = state.own_bundle();
        bundle.x509_authorities[0].tainted = true;
        bundle.jwt_authorities[0].tainted = true;
        let new = Authority::new("cloud.example");
        let added = convert::bundle_to_proto(&new.bundle());
        bundle.x509_authorities.extend(added.x509_authorities);
        bundle.jwt_authorities.extend(added.jwt_authorities);
        state.own_bundle = Some(bundle);
        state.authority = Arc::new(new);
    }
    loop {
        let (message, again) = next_after(&node, STEP, stream).await;
        stream = again;
        if message.unwrap().svids[0].x509_svid != old.svids[0].x509_svid {
            break;
        }
    }
    assert_ne!(workload.jwt(&["x"], "").await.unwrap().svids[0].svid, old_token);
    node.advance_until("the agent's own renewal", async || issuer.calls("RenewAgent") == 1).await;
    let authority = Arc::clone(&issuer.state().authority);
    let trust_domain = TrustDomain::parse("cloud.example").unwrap();
    assert!(BundleSet::from_iter([Arc::new(authority.bundle())]).get(&trust_domain).is_some());
    agent.stop().await;
}
