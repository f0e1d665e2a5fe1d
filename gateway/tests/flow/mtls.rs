//! An issuer on another machine, spoken to over mTLS with an identity from the Workload API.

use std::sync::Arc;

use federation_specs::proto::workload::X509svid;
use service_kit::{
    clock::SystemClock,
    grpc::listen::{TlsOptions, bind_tcp, serve_tls},
    lifecycle::Shutdown,
    tls::{BundleCell, ClientAuth, PeerPolicy, SvidCell},
};

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    eventually,
    partner::{Partner, document},
    td, workload_api,
};

#[tokio::test]
async fn bundle_svid_and_deliveries_go_over_mtls() {
    let mut setup = Setup::new().await;
    let me = format!("spiffe://{LOCAL}/gateway-node");
    let (bundle, server, (chain, key)) = {
        let state = setup.issuer.state();
        let server = state.authority.identity(&format!("spiffe://{LOCAL}/spire/server"));
        (state.own.clone(), server, state.authority.leaf(&me))
    };
    let bundles = Arc::new(BundleCell::new([Arc::new(bundle.clone())].into_iter().collect()));
    let client_auth = ClientAuth::Optional { bundles, policy: PeerPolicy::Exactly(me.parse().unwrap()) };
    let clock = SystemClock::shared();
    let options = TlsOptions::new(Arc::new(SvidCell::holding(server)), client_auth, &clock).unwrap();
    let listener = bind_tcp("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_tls(listener, options, setup.issuer.routes(), clock, Shutdown::new()));
    // The socket is gone: everything must go over TLS.
    setup.issuer.stop().await;

    let socket = setup.file("workload.sock");
    workload_api::serve(
        &socket,
        X509svid {
            spiffe_id: me,
            x509_svid: chain,
            x509_svid_key: key,
            bundle: bundle.x509_roots_der(),
            hint: String::new(),
        },
    );
    setup.config["trust_domains"][0]["issuer"] =
        serde_json::json!({"address": address.to_string(), "workload_api_socket": socket});
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    eventually("delivery", || async { setup.issuer.state().federated.contains_key(PARTNER) }).await;
    assert!(setup.issuer.state().minted >= 1);
    gateway.stop().await;
}
