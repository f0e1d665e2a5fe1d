//! The Workload API over a real Unix socket: statuses and texts as SPIRE's agent has them, and many streams at once.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use federation_specs::{
    convert,
    id::SpiffeId,
    proto::{
        agent::{
            debug::{GetInfoRequest, debug_client::DebugClient},
            logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest, logger_client::LoggerClient},
        },
        health::{HealthCheckRequest, HealthListRequest, health_client::HealthClient},
        types::LogLevel,
        workload::{JwtsvidRequest, ValidateJwtsvidRequest},
    },
};
use prost_types::value::Kind;
use serde_json::{Value, json};
use service_kit::{clock::Clock, lifecycle};
use tonic::{
    Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, metadata::MetadataValue, transport::Channel,
};
use tonic_prost::ProstCodec;

use super::{
    agent::{Node, Running, Workload, ids, next, own_uid, until, with_header},
    authority::Authority,
    issuer::FakeIssuer,
};

/// The identities of the captured calls.
fn five_identities(issuer: &FakeIssuer) {
    let mut state = issuer.state();
    let uid = own_uid();
    state.entry("1", "workload", &[&uid], |entry| entry.hint = "main".into());
    state.entry("2", "onrack", &[&uid], |_| {});
    state.entry("3", "second", &[&uid], |entry| (entry.hint, entry.created_at) = ("main".into(), 2_000));
    state.entry("4", "jti", &[&uid], |entry| {
        let attributes = entry.additional_attributes.get_or_insert_default();
        attributes.jwt_svid_include_jti = true;
    });
    state.entry("5", "dns", &[&uid], |_| {});
}

async fn start(issuer: &FakeIssuer, config: &str) -> (Node, Running, Workload) {
    issuer.token("t-1");
    let node = Node::new(issuer).with_token("t-1").with(config);
    let agent = node.start();
    let workload = node.workload().await;
    (node, agent, workload)
}

/// The token of a captured ValidateJWTSVID call, by the name of its input.
fn token(authority: &Authority, now: time::OffsetDateTime, name: &str) -> String {
    let id = SpiffeId::parse("spiffe://cloud.example/onrack").unwrap();
    let good = authority.jwt(&id, &["aud1".to_string()], now, time::Duration::minutes(5));
    let mut header = json!({"alg": "ES256", "kid": authority.jwt_authority().key_id(), "typ": "JWT"});
    let mut claims = json!({
        "aud": ["aud1"], "exp": (now + time::Duration::MINUTE).unix_timestamp(), "iat": now.unix_timestamp(),
        "sub": id.to_string(),
    });
    let remove = |object: &mut Value, key: &str| drop(object.as_object_mut().unwrap().remove(key));
    match name {
        "ok" | "wrong aud" | "no audience" => return good,
        "empty" | "no svid" | "no header" | "empty request" => return String::new(),
        "garbage" | "no identity" => return "x".into(),
        "alg none" => header["alg"] = json!("none"),
        "alg HS256" => header["alg"] = json!("HS256"),
        "no kid" => remove(&mut header, "kid"),
        "empty kid" => header["kid"] = json!(""),
        "unknown kid" => header["kid"] = json!("nosuch"),
        "no sub" => remove(&mut claims, "sub"),
        "bad sub" => claims["sub"] = json!("bad"),
        "other td sub" => claims["sub"] = json!("spiffe://nosuch.example/x"),
        "no exp" => remove(&mut claims, "exp"),
        "expired (bad signature)" => claims["exp"] = json!(5),
        "bad signature" => {}
        "alg mismatch ES384" => header["alg"] = json!("ES384"),
        "alg mismatch RS256" => header["alg"] = json!("RS256"),
        "typ missing" => remove(&mut header, "typ"),
        other => panic!("no token for {other:?}"),
    }
    // The signature is the good token's, so it fits nothing else.
    claims["nonce"] = json!(1);
    let encode = |json: Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let signature = if name == "alg none" { "" } else { good.rsplit('.').next().unwrap() };
    format!("{}.{}.{signature}", encode(header), encode(claims))
}

/// Makes one captured call; `Ok` means an answer, or the first message of a stream.
async fn call(
    channel: Channel,
    rpc: &str,
    headers: &[&'static str],
    input: &Value,
    svid: impl FnOnce() -> String,
) -> Result<(), Status> {
    let text = |name: &str| input[name].as_str().unwrap_or_default().to_string();
    let body: Vec<u8> = match rpc {
        "SpiffeWorkloadAPI/FetchJWTSVID" => {
            let audience = input["audience"].as_array().into_iter().flatten();
            let audience = audience.map(|audience| audience.as_str().unwrap().to_string()).collect();
            prost::Message::encode_to_vec(&JwtsvidRequest { audience, spiffe_id: text("spiffe_id") })
        }
        "SpiffeWorkloadAPI/ValidateJWTSVID" => {
            prost::Message::encode_to_vec(&ValidateJwtsvidRequest { audience: text("audience"), svid: svid() })
        }
        "grpc.health.v1.Health/Check" => {
            prost::Message::encode_to_vec(&HealthCheckRequest { service: text("service") })
        }
        "spire.api.agent.logger.v1.Logger/SetLogLevel" => {
            let new_level = input["new_level"].as_i64().unwrap_or_default() as i32;
            prost::Message::encode_to_vec(&SetLogLevelRequest { new_level })
        }
        _ => vec![],
    };
    let mut request = Request::new(Raw(body));
    for header in headers {
        request.metadata_mut().append("workload.spiffe.io", MetadataValue::from_static(header));
    }
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::try_from(format!("/{rpc}")).unwrap();
    let mut stream = client.server_streaming(request, path, ProstCodec::<Raw, Raw>::default()).await?.into_inner();
    next(&mut stream).await.map(drop)
}

/// A message that is not looked into.
#[derive(Debug, Default)]
struct Raw(Vec<u8>);

impl prost::Message for Raw {
    fn encode_raw(&self, buf: &mut impl bytes::BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        buf: &mut impl bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buf, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_and_texts_are_those_of_a_spire_agent() {
    let issuer = FakeIssuer::start().await;
    five_identities(&issuer);
    let (node, agent, workload) = start(&issuer, "").await;
    assert_eq!(ids(&workload.x509().await.unwrap()), ["workload", "onrack", "jti", "dns"]);
    let strangers = FakeIssuer::start().await;
    let (stranger, other_agent, _) = start(&strangers, "").await;
    until("the first synchronisation", async || strangers.calls("GetBundle") > 1).await;

    let mut compared = 0;
    for line in include_str!("../../testdata/workload-api.tsv").lines().skip(1) {
        let [rpc, caller, name, input, code, message] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let headers: &[&'static str] = match name {
            "header false" => &["false"],
            "header True" => &["True"],
            "header twice" => &["true", "true"],
            _ if caller.starts_with("no security header") || !rpc.starts_with("SpiffeWorkloadAPI") => &[],
            _ => &["true"],
        };
        let input: Value = serde_json::from_str(input).unwrap_or_else(|_| {
            let audience = match name {
                "no audience" => "",
                "wrong aud" => "zzz",
                _ => "aud1",
            };
            json!([{ "audience": audience }])
        });
        let channel = match caller {
            _ if caller.contains("admin socket") => node.admin(),
            _ if caller.contains("no identity") => {
                service_kit::grpc::connect::unix_channel(&stranger.file("public/api.sock"))
            }
            _ => service_kit::grpc::connect::unix_channel(&node.file("public/api.sock")),
        };
        let authority = Arc::clone(&issuer.state().authority);
        let svid = || token(&authority, issuer.clock.now(), name);
        let answered = call(channel, rpc, headers, &input[0], svid).await;
        let (code, message) = match (name, code) {
            // SPIRE's agent hangs here until the caller gives up.
            ("audience empty string", _) => ("InvalidArgument", "audience must be specified"),
            (_, "(stream open)") => ("OK", message),
            _ => (code, message),
        };
        let (actual_code, actual_message) = match &answered {
            Ok(()) => ("Ok".to_string(), String::new()),
            Err(status) => (format!("{:?}", status.code()), status.message().to_string()),
        };
        assert_eq!(actual_code.to_lowercase(), code.to_lowercase(), "{rpc} {name}: {actual_message}");
        assert_eq!(actual_message, message, "{rpc} {name}");
        compared += 1;
    }
    assert_eq!(compared, 69);
    agent.stop().await;
    other_agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jwt_svids_are_cached_except_those_with_an_id_of_their_own() {
    let issuer = FakeIssuer::start().await;
    five_identities(&issuer);
    let (node, agent, workload) = start(&issuer, "jwt_svid_cache_max_size: 2").await;
    let one = "spiffe://cloud.example/onrack";
    let first = workload.jwt(&["a", "b"], one).await.unwrap();
    assert_eq!(first.svids.len(), 1);
    assert_eq!(workload.jwt(&["b", "", "a"], one).await.unwrap(), first);
    assert_eq!(issuer.calls("NewJWTSVID"), 1);
    for _ in 0..2 {
        workload.jwt(&["a"], "spiffe://cloud.example/jti").await.unwrap();
    }
    assert_eq!(issuer.calls("NewJWTSVID"), 3);
    let all = workload.jwt(&["a"], "").await.unwrap();
    let hints: Vec<(&str, &str)> = all
        .svids
        .iter()
        .map(|svid| (svid.spiffe_id.trim_start_matches("spiffe://cloud.example/"), svid.hint.as_str()))
        .collect();
    assert_eq!(hints, [("workload", "main"), ("onrack", ""), ("jti", ""), ("dns", "")]);

    let mut debug = DebugClient::new(node.admin());
    let info = debug.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.cached_jwt_svids_count, info.cached_x509_svids_count), (2, 5));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_other_trust_domains_show_few_claims() {
    let issuer = FakeIssuer::start().await;
    let (partner, stranger) = (Authority::new("onprem.example"), Authority::new("stranger.example"));
    {
        let mut state = issuer.state();
        let federated = vec!["onprem.example".to_string()];
        state.entry("1", "web", &[&own_uid()], |entry| entry.federates_with = federated);
        state.federated.insert("onprem.example".into(), convert::bundle_to_proto(&partner.bundle()));
    }
    let (_node, agent, workload) = start(&issuer, "allowed_foreign_jwt_claims: [nonce]").await;
    let claims = json!({
        "sub": "spiffe://onprem.example/m", "aud": "one", "exp": (issuer.clock.now() + time::Duration::MINUTE).unix_timestamp(),
        "iss": "https://oidc.onprem.example", "nonce": {"a": [1, true, null]},
    });
    let header = json!({"alg": "ES256", "kid": partner.jwt_authority().key_id(), "typ": "JWT"});
    let answer = workload.validate("one", &partner.jwt_with(&header, &claims)).await.unwrap();
    assert_eq!(answer.spiffe_id, "spiffe://onprem.example/m");
    let shown = answer.claims.unwrap().fields;
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["aud", "exp", "nonce", "sub"]);
    assert!(matches!(&shown["aud"].kind, Some(Kind::ListValue(list)) if list.values.len() == 1));
    assert!(matches!(&shown["nonce"].kind, Some(Kind::StructValue(_))));

    // Another trust domain's key never counts, whatever the token says.
    let status = workload.validate("one", &stranger.jwt_with(&header, &claims)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let own = workload.jwt(&["one"], "").await.unwrap().svids[0].svid.clone();
    let shown = workload.validate("one", &own).await.unwrap().claims.unwrap().fields;
    assert!(shown.contains_key("iss") && shown.contains_key("iat"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_without_an_identity_may_get_the_own_bundle() {
    let issuer = FakeIssuer::start().await;
    let (_node, agent, workload) = start(&issuer, "allow_unauthenticated_verifiers: true").await;
    let bundles = next(&mut workload.x509_bundles_stream().await.unwrap()).await.unwrap().bundles;
    assert_eq!(bundles.keys().collect::<Vec<_>>(), ["spiffe://cloud.example"]);
    let bundles = next(&mut workload.jwt_bundles_stream().await.unwrap()).await.unwrap().bundles;
    let jwks: Value = serde_json::from_slice(&bundles["spiffe://cloud.example"]).unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
    assert!(jwks["keys"][0].get("use").is_none());
    assert_eq!(workload.x509().await.unwrap_err().message(), "no identity issued");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_reflection_and_administration() {
    let issuer = FakeIssuer::start().await;
    issuer.state().entry("1", "web", &[&own_uid()], |_| {});
    let (node, agent, workload) = start(&issuer, "").await;
    workload.x509().await.unwrap();
    let public = service_kit::grpc::connect::unix_channel(&node.file("public/api.sock"));
    let mut health = HealthClient::new(public.clone());
    assert_eq!(health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status, 1);
    assert_eq!(health.list(HealthListRequest {}).await.unwrap_err().code(), Code::Unimplemented);

    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| std::fs::metadata(node.file(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("public"), mode("public/api.sock")), (0o755, 0o777));
    assert_eq!((mode("private"), mode("private/admin.sock")), (0o750, 0o770));

    let mut debug = DebugClient::new(node.admin());
    issuer.clock.advance(Duration::from_secs(3));
    let info = debug.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    let ids: Vec<String> = info
        .svid_chain
        .iter()
        .map(|cert| convert::spiffe_id_from_proto(cert.id.as_ref()).unwrap().to_string())
        .collect();
    assert_eq!(ids, ["spiffe://cloud.example/spire/agent/join_token/t-1", "spiffe://cloud.example"]);
    assert_eq!(info.svid_chain[0].subject, "O=SPIRE,C=US");
    assert!(info.uptime >= 3 && info.last_sync_success > 0);
    assert_eq!((info.cached_x509_svids_count, info.cached_jwt_svids_count), (1, 0));

    let mut logger = LoggerClient::new(node.admin());
    let set = SetLogLevelRequest { new_level: LogLevel::Debug.into() };
    let now = logger.set_log_level(set).await.unwrap().into_inner();
    assert_eq!((now.current_level(), now.launch_level()), (LogLevel::Debug, LogLevel::Info));
    logger.reset_log_level(ResetLogLevelRequest {}).await.unwrap();
    assert_eq!(logger.get_logger(GetLoggerRequest {}).await.unwrap().into_inner().current_level(), LogLevel::Info);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_opened_at_once_are_all_answered() {
    const STREAMS: usize = 2_000;
    lifecycle::raise_file_limit();
    let issuer = FakeIssuer::start().await;
    issuer.state().entry("1", "web", &[&own_uid()], |_| {});
    let (node, agent, workload) = start(&issuer, "").await;
    workload.x509().await.unwrap();

    // Half of them each on a connection of its own, half on one connection.
    let mut opening = tokio::task::JoinSet::new();
    for number in 0..STREAMS {
        let workload = if number % 2 == 0 { node.workload().await } else { workload.clone() };
        opening.spawn(async move {
            let mut client = workload.client.clone();
            let mut stream = client.fetch_x509svid(with_header(Default::default())).await.unwrap().into_inner();
            let first = next(&mut stream).await.unwrap();
            assert_eq!(ids(&first), ["web"]);
            (workload, stream)
        });
    }
    let mut streams = Vec::with_capacity(STREAMS);
    let opened = tokio::time::timeout(Duration::from_secs(60), async {
        while let Some(stream) = opening.join_next().await {
            streams.push(stream.unwrap());
        }
    });
    opened.await.expect("every stream is answered");
    assert_eq!(streams.len(), STREAMS);

    // The agent goes on serving others, and a change reaches all.
    assert_eq!(ids(&node.workload().await.x509().await.unwrap()), ["web"]);
    issuer.state().entry("2", "web2", &[&own_uid()], |_| {});
    // All at once: on a shared connection an unread message holds up the others.
    let updates = tokio::spawn(async move {
        let updates = streams.iter_mut().map(async |(_, stream)| {
            assert_eq!(ids(&next(stream).await.unwrap()), ["web", "web2"]);
        });
        futures::future::join_all(updates).await;
    });
    node.advance_until("the update", async || updates.is_finished()).await;
    updates.await.unwrap();
    let calls = issuer.calls("BatchNewX509SVID");
    assert!(calls <= 4, "{calls} signing calls for two identities");
    agent.stop().await;
}
