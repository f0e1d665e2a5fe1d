//! Relationships, federated bundles and the gateway's part.

use std::time::Duration;

use federation_specs::proto::{
    entente::federation::{
        ReportRefreshRequest, WatchRelationshipsRequest, federation_work_client::FederationWorkClient,
    },
    server::{
        bundle::{
            AppendBundleRequest, BatchDeleteFederatedBundleRequest, GetBundleRequest,
            batch_delete_federated_bundle_request::Mode, bundle_client::BundleClient,
        },
        trustdomain::{
            BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest, RefreshBundleRequest,
            trust_domain_client::TrustDomainClient,
        },
    },
    types::{self, federation_relationship::BundleEndpointProfile},
};
use tonic::Code;

use super::harness::{ForeignDomain, TestIssuer, entry};

fn relationship(trust_domain: &str, url: &str, profile: BundleEndpointProfile) -> types::FederationRelationship {
    types::FederationRelationship {
        trust_domain: trust_domain.into(),
        bundle_endpoint_url: url.into(),
        trust_domain_bundle: None,
        bundle_endpoint_profile: Some(profile),
    }
}

fn web() -> BundleEndpointProfile {
    BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {})
}

/// The relationships that existed when the calls were recorded.
pub(super) async fn create_relationships(issuer: &TestIssuer) {
    let spiffe = types::HttpsspiffeProfile { endpoint_spiffe_id: "spiffe://rot.example/spire/server".into() };
    create(issuer, relationship("onprem.example", "https://localhost:28443", web())).await;
    let spiffe = BundleEndpointProfile::HttpsSpiffe(spiffe);
    create(issuer, relationship("rot.example", "https://127.0.0.1:38443", spiffe)).await;
}

async fn create(issuer: &TestIssuer, relationship: types::FederationRelationship) {
    let request =
        BatchCreateFederationRelationshipRequest { federation_relationships: vec![relationship], output_mask: None };
    let mut client = TrustDomainClient::new(issuer.local());
    let created = client.batch_create_federation_relationship(request).await.unwrap().into_inner();
    assert_eq!(created.results[0].status.as_ref().map(|status| status.code), Some(0), "{created:?}");
}

async fn refresh(issuer: &TestIssuer, trust_domain: &str) -> Result<(), (Code, String)> {
    let request = RefreshBundleRequest { trust_domain: trust_domain.into() };
    let refreshed = TrustDomainClient::new(issuer.local()).refresh_bundle(request).await;
    refreshed.map(drop).map_err(|status| (status.code(), status.message().to_owned()))
}

#[tokio::test]
async fn a_gateway_learns_relationships_and_does_the_refreshing() {
    let issuer = TestIssuer::start("").await;
    create(&issuer, relationship("onprem.example", "https://onprem.example/bundle", web())).await;
    let refused = refresh(&issuer, "onprem.example").await.unwrap_err();
    let text = "failed to refresh bundle: no gateway is connected; start one with `entente gateway run`";
    assert_eq!(refused, (Code::Internal, text.into()));

    let mut gateway = FederationWorkClient::new(issuer.local());
    let mut work = gateway.watch_relationships(WatchRelationshipsRequest {}).await.unwrap().into_inner();
    let first = work.message().await.unwrap().unwrap();
    assert_eq!(first.relationships.len(), 1);
    assert!(first.relationships[0].trust_domain_bundle.is_none() && first.refresh_requests.is_empty());
    assert!(first.end_of_snapshot && first.number == 1);

    let foreign = ForeignDomain::new("onprem.example");
    issuer.set_bundle(&foreign.bundle()).await;
    let second = work.message().await.unwrap().unwrap();
    assert!(second.relationships[0].trust_domain_bundle.is_some());
    create(&issuer, relationship("third.example", "https://third.example/bundle", web())).await;
    let third = work.message().await.unwrap().unwrap();
    let names: Vec<_> = third.relationships.iter().map(|each| each.trust_domain.as_str()).collect();
    assert_eq!((names, third.number, third.end_of_snapshot), (vec!["third.example"], 3, false), "only what is new");

    for (ok, error, expected) in [
        (true, "", Ok(())),
        (false, "partner is down", Err((Code::Internal, "failed to refresh bundle: partner is down".to_owned()))),
    ] {
        let report = async {
            let asked = work.message().await.unwrap().unwrap();
            let [request] = asked.refresh_requests.as_slice() else { panic!("{asked:?}") };
            assert_eq!(request.trust_domain, "onprem.example");
            let report = ReportRefreshRequest {
                trust_domain: request.trust_domain.clone(),
                request_id: request.request_id.clone(),
                ok,
                error: error.into(),
            };
            gateway.report_refresh(report).await.unwrap();
        };
        let (refreshed, ()) = tokio::join!(refresh(&issuer, "onprem.example"), report);
        assert_eq!(refreshed, expected);
    }

    let request = BatchDeleteFederationRelationshipRequest { trust_domains: vec!["third.example".into()] };
    TrustDomainClient::new(issuer.local()).batch_delete_federation_relationship(request).await.unwrap();
    let last = work.message().await.unwrap().unwrap();
    assert_eq!((last.relationships.len(), last.removed), (0, vec!["third.example".to_owned()]));
    drop(work);
    for _ in 0..100 {
        if refresh(&issuer, "onprem.example").await.is_err_and(|(_, text)| text.contains("no gateway")) {
            issuer.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a gateway that hung up is still counted");
}

#[tokio::test]
async fn many_relationships_come_in_pages() {
    const COUNT: usize = 1200;
    let issuer = TestIssuer::start("").await;
    let mut client = TrustDomainClient::new(issuer.local());
    let names: Vec<String> = (0..COUNT).map(|number| format!("p{number:04}.example")).collect();
    for names in names.chunks(100) {
        let made = names.iter().map(|name| relationship(name, "https://partner.example/bundle", web()));
        let request =
            BatchCreateFederationRelationshipRequest { federation_relationships: made.collect(), output_mask: None };
        client.batch_create_federation_relationship(request).await.unwrap();
    }
    let mut gateway = FederationWorkClient::new(issuer.local());
    let mut work = gateway.watch_relationships(WatchRelationshipsRequest {}).await.unwrap().into_inner();
    let (mut all, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let page = work.message().await.unwrap().unwrap();
        sizes.push(page.relationships.len());
        all.extend(page.relationships.into_iter().map(|each| each.trust_domain));
        assert_eq!(page.number, sizes.len() as u64);
        if page.end_of_snapshot {
            break;
        }
    }
    all.sort();
    assert_eq!(all, names);
    assert_eq!(sizes, [500, 500, 200]);

    // A change of one costs one.
    let foreign = ForeignDomain::new("p0700.example");
    issuer.set_bundle(&foreign.bundle()).await;
    let change = work.message().await.unwrap().unwrap();
    assert_eq!(change.relationships.len(), 1);
    assert!(change.relationships[0].trust_domain_bundle.is_some());
    // What concerns no relationship is not told.
    issuer.set_bundle(&ForeignDomain::new("nobody.example").bundle()).await;
    issuer.set_bundle(&ForeignDomain::new("p0001.example").bundle()).await;
    let change = work.message().await.unwrap().unwrap();
    let names: Vec<_> = change.relationships.iter().map(|each| each.trust_domain.as_str()).collect();
    assert_eq!((names, change.number), (vec!["p0001.example"], 5));
    issuer.stop().await;
}

#[tokio::test]
async fn an_authority_must_be_exactly_one_certificate() {
    let issuer = TestIssuer::start("").await;
    let foreign = ForeignDomain::new("onprem.example");
    let before = issuer.bundle().await;
    for asn1 in [Vec::new(), foreign.root().repeat(2), b"no certificate".to_vec()] {
        let request = AppendBundleRequest {
            x509_authorities: vec![types::X509Certificate { asn1, tainted: false }],
            ..Default::default()
        };
        let status = BundleClient::new(issuer.local()).append_bundle(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("failed to convert X.509 authority: "), "{}", status.message());
    }
    assert_eq!(issuer.bundle().await, before);
    let request = AppendBundleRequest {
        x509_authorities: vec![types::X509Certificate { asn1: foreign.root().to_vec(), tainted: true }],
        ..Default::default()
    };
    let appended = BundleClient::new(issuer.local()).append_bundle(request).await.unwrap().into_inner();
    assert_eq!(appended.x509_authorities.len(), 2);
    assert!(appended.x509_authorities.iter().all(|authority| !authority.tainted), "taint is not taken from callers");
    assert_eq!(appended.sequence_number, before.sequence().unwrap() + 1);
    issuer.stop().await;
}

#[tokio::test]
async fn deleting_a_bundle_respects_the_entries_that_use_it() {
    let issuer = TestIssuer::start("").await;
    let foreign = ForeignDomain::new("onprem.example");
    issuer.set_bundle(&foreign.bundle()).await;
    let mut federated = entry("fed", "spiffe://cloud.example/spire/agent/x", "/fed");
    federated.federates_with = vec!["onprem.example".into()];
    issuer.create(vec![federated]).await;
    let delete = async |mode: Mode| {
        let request =
            BatchDeleteFederatedBundleRequest { trust_domains: vec!["onprem.example".into()], mode: mode as i32 };
        let deleted = BundleClient::new(issuer.local()).batch_delete_federated_bundle(request).await.unwrap();
        deleted.into_inner().results[0].status.clone().unwrap()
    };
    let refused = delete(Mode::Restrict).await;
    assert_eq!(refused.code, Code::FailedPrecondition as i32);
    assert!(refused.message.contains("federated with 1 registration entries"), "{}", refused.message);
    assert_eq!(delete(Mode::Dissociate).await.code, 0);
    let bundle = BundleClient::new(issuer.local()).get_bundle(GetBundleRequest::default()).await.unwrap();
    assert_eq!(bundle.into_inner().trust_domain, "cloud.example");
    issuer.stop().await;
}
