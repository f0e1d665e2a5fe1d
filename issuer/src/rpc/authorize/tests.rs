use super::*;
use crate::{node::Attestation, rpc::Access, store::MIGRATIONS};
use federation_specs::{
    bundle::{Bundle, BundleSet, X509Authority},
    convert,
    id::{SpiffeId, TrustDomain},
    x509_svid::verify_chain,
};
use service_kit::{clock::ManualClock, database::Database};
use std::{collections::BTreeSet, time::Duration};
use time::{OffsetDateTime, macros::datetime};

const NOW: OffsetDateTime = datetime!(2026-11-22 10:00 UTC);
const METHOD: &str = "/spire.api.server.agent.v1.Agent/CountAgents";

const AGENT_OR_ADMIN: permissions::Access =
    permissions::Access { anyone: false, local: false, admin: true, downstream: false, agent: true };

/// An SVID of `cloud.example` that ends in an hour.
fn svid(id: &str) -> Arc<VerifiedX509Svid> {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = X509Authority::from_der(root.self_signed(&root_key).unwrap().der()).unwrap();
    let issuer = rcgen::Issuer::new(root, root_key);
    let mut leaf = rcgen::CertificateParams::default();
    leaf.not_after = NOW + Duration::from_secs(3600);
    leaf.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
    let leaf = leaf.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap();
    let mut bundles = BundleSet::default();
    bundles
        .insert(Arc::new(Bundle::new(TrustDomain::parse("cloud.example").unwrap()).with_x509_authorities([authority])));
    Arc::new(verify_chain(&[leaf.der()], &bundles, NOW).unwrap())
}

fn caller(svid: &Arc<VerifiedX509Svid>) -> Caller {
    Caller { identity: Identity::Svid(Arc::clone(svid)), address: None, deadline: None, agent: None }
}

struct Fixture {
    authorizer: Authorizer,
    store: Store,
    clock: ManualClock,
    _folder: tempfile::TempDir,
}

async fn fixture(admin: &str) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(NOW);
    let shared: SharedClock = Arc::new(clock.clone());
    let path = folder.path().join("issuer.sqlite3");
    let database = Database::open(&path, &MIGRATIONS, Arc::clone(&shared)).await.unwrap();
    let store = Store::open(database, TrustDomain::parse("cloud.example").unwrap()).await.unwrap();
    let access = Access { admin_ids: BTreeSet::from([SpiffeId::parse(admin).unwrap()]), audit_log: false };
    let authorizer = Authorizer::new(store.clone(), access, shared);
    Fixture { authorizer, store, clock, _folder: folder }
}

fn reason(status: &Status) -> Option<Reason> {
    assert_eq!(status.message(), format!("authorization denied for method {METHOD}"));
    convert::permission_denied_reason(status.details())
}

#[tokio::test]
async fn rights_end_with_the_svid_on_a_connection_that_stays_open() {
    let admin = svid("spiffe://cloud.example/admin");
    let agent = svid("spiffe://cloud.example/spire/agent/join_token/one");
    let fixture = fixture("spiffe://cloud.example/admin").await;
    let attestation = Attestation {
        agent_id: agent.id().clone(),
        attestation_type: "join_token".into(),
        serial_number: agent.serial_decimal().to_owned(),
        expires_at: agent.not_after().unix_timestamp(),
        can_reattest: false,
        selectors: BTreeSet::new(),
    };
    fixture.store.attest_node(&attestation, None, NOW).await.unwrap();
    let decide =
        async |svid: &Arc<VerifiedX509Svid>| fixture.authorizer.decide(AGENT_OR_ADMIN, METHOD, caller(svid)).await;
    assert!(decide(&admin).await.unwrap().agent.is_none());
    assert_eq!(decide(&agent).await.unwrap().agent.unwrap().agent_id, *agent.id());
    fixture.clock.advance(Duration::from_secs(3599));
    decide(&admin).await.unwrap();
    decide(&agent).await.unwrap();
    fixture.clock.advance(Duration::from_secs(1));
    for expired in [&admin, &agent] {
        assert_eq!(reason(&decide(expired).await.unwrap_err()), Some(Reason::AgentExpired));
    }
}

#[tokio::test]
async fn local_and_anonymous_callers_get_no_reason() {
    let fixture = fixture("spiffe://cloud.example/admin").await;
    for identity in [Identity::Local, Identity::Anonymous] {
        let caller = Caller { identity, address: None, deadline: None, agent: None };
        let refused = fixture.authorizer.decide(AGENT_OR_ADMIN, METHOD, caller).await.unwrap_err();
        assert_eq!(reason(&refused), None);
    }
}

#[test]
fn paths_that_name_nothing_are_unimplemented() {
    for (path, text) in [
        ("/nosuch.Service/Call", "unknown service nosuch.Service"),
        (
            "/spire.api.server.entry.v1.Entry/Nosuch",
            "unknown method Nosuch for service spire.api.server.entry.v1.Entry",
        ),
        ("/grpc.health.v1.Health/Check", "unknown service grpc.health.v1.Health"),
        ("/", "malformed method name: \"/\""),
        ("*", "malformed method name: \"*\""),
    ] {
        let status = access_of(path, false).unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, text), "{path}");
    }
}
