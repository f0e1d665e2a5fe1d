//! Signing.

use federation_specs::{
    bundle::BundleSet,
    certificate::Certificate,
    jwt_svid,
    proto::server::{
        debug::{GetInfoRequest, debug_client::DebugClient},
        localauthority::{
            ActivateX509AuthorityRequest, PrepareX509AuthorityRequest, TaintX509AuthorityRequest,
            local_authority_client::LocalAuthorityClient,
        },
        svid::{
            BatchNewX509svidRequest, MintJwtsvidRequest, MintX509svidRequest, NewDownstreamX509caRequest,
            NewJwtsvidRequest, NewX509svidParams, svid_client::SvidClient,
        },
    },
    x509_svid::verify_chain,
};
use service_kit::{
    clock::{Clock, SystemClock},
    csr::{self, CsrSubject},
    keys::{KeyType, PrivateKey},
};
use std::sync::Arc;
use time::OffsetDateTime;
use tonic::Code;

use super::harness::{TestIssuer, agent_csr, entry, id};

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

fn now() -> OffsetDateTime {
    SystemClock.now()
}

async fn bundles(issuer: &TestIssuer) -> BundleSet {
    let mut bundles = BundleSet::default();
    bundles.insert(Arc::new(issuer.bundle().await));
    bundles
}

#[tokio::test]
async fn an_agent_gets_svids_for_its_entries_only() {
    let issuer = TestIssuer::start("").await;
    let agent = issuer.agent("one").await;
    let mut web = entry("web", &agent.id(), "/web");
    web.dns_names = vec!["web.example".into()];
    web.x509_svid_ttl = 120;
    issuer.create(vec![web, entry("foreign", "spiffe://cloud.example/spire/agent/x", "/foreign")]).await;
    let mut client = SvidClient::new(issuer.remote(Some(&agent)).await);
    let params =
        ["web", "foreign", "nosuch", ""].map(|id| NewX509svidParams { entry_id: id.into(), csr: agent_csr(&key()) });
    let request = BatchNewX509svidRequest { params: params.to_vec() };
    let results = client.batch_new_x509svid(request).await.unwrap().into_inner().results;
    let codes: Vec<_> = results.iter().map(|result| result.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [Code::Ok, Code::NotFound, Code::NotFound, Code::InvalidArgument].map(|code| code as i32));
    let svid = results[0].svid.as_ref().unwrap();
    assert_eq!(svid.id, id("/web"));
    let chain: Vec<&[u8]> = svid.cert_chain.iter().map(Vec::as_slice).collect();
    let verified = verify_chain(&chain, &bundles(&issuer).await, now()).unwrap();
    assert_eq!(verified.id().path(), "/web");
    let left = svid.expires_at - now().unix_timestamp();
    assert!((100..=120).contains(&left), "{left}");
    assert_eq!(Certificate::from_der(&svid.cert_chain[0]).unwrap().names().dns, ["web.example"]);

    let request = NewJwtsvidRequest { entry_id: "web".into(), audience: vec!["a".into()] };
    let token = client.new_jwtsvid(request).await.unwrap().into_inner().svid.unwrap();
    let verified = jwt_svid::verify(&token.token, Some("a"), &bundles(&issuer).await, now()).unwrap();
    assert_eq!(verified.id().path(), "/web");
    let request = NewJwtsvidRequest { entry_id: "foreign".into(), audience: vec!["a".into()] };
    assert_eq!(client.new_jwtsvid(request).await.unwrap_err().code(), Code::NotFound);
    let request = NewJwtsvidRequest { entry_id: "web".into(), audience: vec![String::new()] };
    let empty = client.new_jwtsvid(request).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument, "agents repeat what fails with Internal");
    issuer.stop().await;
}

#[tokio::test]
async fn names_that_are_no_dns_names_are_never_signed() {
    let issuer = TestIssuer::start("").await;
    for name in ["bad name", "127.0.0.1", "host:80", "a@b", " lead.example"] {
        let uri = "spiffe://cloud.example/m".try_into().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri), rcgen::SanType::DnsName(name.try_into().unwrap())];
        let csr = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let minted = SvidClient::new(issuer.local()).mint_x509svid(MintX509svidRequest { csr, ttl: 0 }).await;
        let refused = minted.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}");
        assert!(refused.message().starts_with("CSR DNS name is invalid: "), "{}", refused.message());
    }
    issuer.stop().await;
}

#[tokio::test]
async fn jwt_svids_can_be_switched_off() {
    let issuer = TestIssuer::start("disable_jwt_svids: true\n").await;
    let request = MintJwtsvidRequest { id: id("/m"), audience: vec!["a".into()], ttl: 0 };
    let refused = SvidClient::new(issuer.local()).mint_jwtsvid(request).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unimplemented, "JWT functionality is disabled"));
    let mut authorities = LocalAuthorityClient::new(issuer.local());
    let state = authorities.get_jwt_authority_state(tonic::Request::new(Default::default())).await.unwrap_err();
    assert_eq!(state.message(), "JWT functionality is disabled");
    assert!(issuer.bundle().await.jwt_authorities().is_empty());
    issuer.stop().await;
}

#[tokio::test]
async fn a_downstream_caller_gets_a_ca_certificate() {
    let issuer = TestIssuer::start("").await;
    let mut down = entry("down", "spiffe://cloud.example/spire/agent/x", "/down");
    down.downstream = true;
    issuer.create(vec![down]).await;
    let svid = issuer.mint("spiffe://cloud.example/down").await;
    let mut client = SvidClient::new(issuer.remote(Some(&svid)).await);
    let ca_key = key();
    let csr = csr::create(&ca_key, CsrSubject::default(), None, &[]).unwrap();
    let request = NewDownstreamX509caRequest { csr, preferred_ttl: 3600 };
    let ca = client.new_downstream_x509ca(request).await.unwrap().into_inner();
    assert_eq!(ca.ca_cert_chain.len(), 1);
    let certificate = Certificate::from_der(&ca.ca_cert_chain[0]).unwrap();
    assert!(certificate.is_ca());
    assert_eq!(certificate.public_key().unwrap(), ca_key.public_key());
    assert_eq!(ca.x509_authorities, [issuer.bundle().await.x509_authorities()[0].der().to_vec()]);
    issuer.stop().await;
}

#[tokio::test]
async fn rotating_the_x509_authority_changes_what_the_server_presents() {
    let issuer = TestIssuer::start("").await;
    let mut client = LocalAuthorityClient::new(issuer.local());
    let old = issuer.bundle().await.x509_authorities()[0].key_id_hex();
    let prepared = client.prepare_x509_authority(PrepareX509AuthorityRequest {}).await.unwrap().into_inner();
    let prepared = prepared.prepared_authority.unwrap();
    assert_eq!(issuer.bundle().await.x509_authorities().len(), 2);
    let activate = ActivateX509AuthorityRequest { authority_id: prepared.authority_id.clone() };
    client.activate_x509_authority(activate).await.unwrap();
    let taint = TaintX509AuthorityRequest { authority_id: old.clone() };
    let tainted = client.taint_x509_authority(taint.clone()).await.unwrap().into_inner().tainted_authority.unwrap();
    assert_eq!(tainted.authority_id, old);
    let again = client.taint_x509_authority(taint).await.unwrap_err();
    assert_eq!(again.message(), "failed to taint X.509 authority: root CA is already tainted");
    let minted = issuer.mint("spiffe://cloud.example/after").await;
    let leaf = Certificate::from_der(&minted.chain[0]).unwrap();
    let authority = leaf.authority_key_id().unwrap().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(authority, prepared.authority_id);
    issuer.stop().await;
}

#[tokio::test]
async fn debug_shows_the_chain_up_to_the_bundle() {
    let issuer = TestIssuer::start("").await;
    let info = DebugClient::new(issuer.local()).get_info(GetInfoRequest {}).await.unwrap().into_inner();
    let ids: Vec<_> = info.svid_chain.iter().map(|cert| cert.id.clone()).collect();
    assert_eq!(ids, [id("/spire/server"), id("")]);
    assert_eq!(info.svid_chain[0].subject, "O=SPIRE,C=US");
    assert!(info.svid_chain[1].subject.starts_with("SERIALNUMBER="), "{}", info.svid_chain[1].subject);
    assert!(info.svid_chain[1].subject.ends_with(",O=SPIFFE,C=US"), "{}", info.svid_chain[1].subject);
    assert_eq!((info.agents_count, info.entries_count, info.federated_bundles_count), (0, 0, 1));
    issuer.stop().await;
}
