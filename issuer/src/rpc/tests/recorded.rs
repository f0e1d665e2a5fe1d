//! Calls recorded from a running SPIRE server, made again and compared.
//!
//! `testdata/spire_server_api.tsv` holds what was called and what the server answered; `testdata/differences.tsv` what
//! this issuer answers otherwise on purpose, each with the name of its reason in `docs/conformance.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, BufMut};
use federation_specs::{
    convert,
    proto::{
        server::{
            entry::{BatchDeleteEntryRequest, entry_client::EntryClient},
            localauthority::{
                GetJwtAuthorityStateRequest, GetX509AuthorityStateRequest, local_authority_client::LocalAuthorityClient,
            },
        },
        types::permission_denied_details::Reason,
    },
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde_json::Value;
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

use super::harness::{ForeignDomain, TestIssuer, entry};

const RECORDED: &str = include_str!("../../../testdata/spire_server_api.tsv");
const DIFFERENCES: &str = include_str!("../../../testdata/differences.tsv");
const CONFORMANCE: &str = include_str!("../../../../docs/conformance.md");

const AGENT_TOKEN: &str = "d387ec17-cbc3-4075-9370-8edf5756bd78";

/// What a call came to: code, message, reason detail, status of each item.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome([String; 4]);

struct Row<'a> {
    rpc: &'a str,
    caller: &'a str,
    name: &'a str,
    input: &'a str,
    outcome: Outcome,
}

fn rows() -> Vec<Row<'static>> {
    let parse = |line: &'static str| {
        let [rpc, caller, name, input, code, message, reason, items] = fields(line);
        Row { rpc, caller, name, input, outcome: Outcome([code, message, reason, items].map(str::to_owned)) }
    };
    RECORDED.lines().skip(1).map(parse).collect()
}

fn fields<const N: usize>(line: &str) -> [&str; N] {
    let fields: Vec<_> = line.split('\t').collect();
    fields.try_into().unwrap_or_else(|_| panic!("expected {N} fields: {line}"))
}

/// Sends and receives encoded messages.
#[derive(Debug, Clone, Default)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// Fills the placeholders of recorded inputs.
struct Placeholders {
    own_root: Vec<u8>,
    foreign_root: Vec<u8>,
    active_x509: String,
    active_jwt: String,
}

impl Placeholders {
    fn fill(&self, value: &mut Value) {
        match value {
            Value::String(text) if text.starts_with('@') => *text = self.value(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.fill(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.fill(member)),
            _ => {}
        }
    }

    fn value(&self, text: &str) -> String {
        let words: Vec<_> = text.split(' ').collect();
        match words.as_slice() {
            ["@csr", options @ ..] => STANDARD.encode(csr(options)),
            ["@repeat", text, count] => text.repeat(count.parse().unwrap()),
            ["@key"] => {
                STANDARD.encode(rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::generate().unwrap()))
            }
            ["@own"] => "agent-own".into(),
            ["@own_root"] => STANDARD.encode(&self.own_root),
            ["@own_root_twice"] => STANDARD.encode(self.own_root.repeat(2)),
            ["@foreign_root"] => STANDARD.encode(&self.foreign_root),
            ["@active_x509"] => self.active_x509.clone(),
            ["@active_jwt"] => self.active_jwt.clone(),
            _ => panic!("unknown placeholder {text}"),
        }
    }
}

fn csr(options: &[&str]) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let mut bad_signature = false;
    for option in options {
        match option.split_once('=') {
            Some(("uri", uri)) => params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap())),
            Some(("dns", name)) => params.subject_alt_names.push(rcgen::SanType::DnsName(name.try_into().unwrap())),
            Some(("o", name)) => params.distinguished_name.push(rcgen::DnType::OrganizationName, name),
            _ => bad_signature = true,
        }
    }
    let mut der = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
    if bad_signature {
        *der.last_mut().unwrap() ^= 1;
    }
    der
}

struct Recording {
    pool: DescriptorPool,
    callers: BTreeMap<&'static str, Channel>,
    placeholders: Placeholders,
}

impl Recording {
    fn method(&self, rpc: &str) -> Option<MethodDescriptor> {
        let (service, method) = rpc.split_once('/').unwrap();
        self.pool.get_service_by_name(service)?.methods().find(|known| known.name() == method)
    }

    async fn call(&self, row: &Row<'_>) -> Outcome {
        let method = self.method(row.rpc);
        let mut input: Value = serde_json::from_str(row.input).unwrap();
        self.placeholders.fill(&mut input);
        let encode = |message: &Value| match &method {
            Some(method) => DynamicMessage::deserialize(method.input(), message).unwrap().encode_to_vec(),
            None => Vec::new(),
        };
        let messages: Vec<_> = input.as_array().unwrap().iter().map(encode).collect();
        let mut client = tonic::client::Grpc::new(self.callers[row.caller].clone());
        client.ready().await.unwrap();
        let path = PathAndQuery::try_from(format!("/{}", row.rpc)).unwrap();
        let request = Request::new(tokio_stream::iter(messages));
        let called = async {
            let mut answers = client.streaming(request, path, Encoded).await?.into_inner();
            let mut last = None;
            while let Some(answer) = answers.message().await? {
                last = Some(answer);
            }
            Ok::<_, Status>(last)
        };
        match called.await {
            Ok(answer) => {
                let items = answer.map(|answer| items(method.as_ref().unwrap(), &answer)).unwrap_or_default();
                Outcome(["OK".into(), String::new(), String::new(), items])
            }
            Err(status) => {
                let reason = convert::permission_denied_reason(status.details());
                let reason = reason.map(|reason: Reason| reason.as_str_name().to_owned()).unwrap_or_default();
                Outcome([code_name(status.code()), escape(status.message()), reason, String::new()])
            }
        }
    }
}

fn code_name(code: Code) -> String {
    format!("{code:?}")
}

fn escape(text: &str) -> String {
    text.replace('\n', "\\n")
}

/// `code:message` of each item of a batch.
fn items(method: &MethodDescriptor, answer: &[u8]) -> String {
    let answer = DynamicMessage::decode(method.output(), answer).unwrap();
    let Some(results) = answer.get_field_by_name("results") else { return String::new() };
    let status = |result: &prost_reflect::Value| {
        let result = result.as_message().unwrap();
        let status = result.get_field_by_name("status").unwrap().into_owned();
        let status = status.as_message().unwrap().clone();
        let code = status.get_field_by_name("code").unwrap().as_i32().unwrap();
        let message = status.get_field_by_name("message").unwrap().as_str().unwrap().to_owned();
        format!("{code}:{}", escape(&message))
    };
    let results: Vec<_> = results.as_list().unwrap().iter().map(status).collect();
    results.join(" | ")
}

async fn prepare(issuer: &TestIssuer, foreign: &ForeignDomain) -> Recording {
    let agent = issuer.agent(AGENT_TOKEN).await;
    let own = super::harness::entry("agent-own", &agent.id(), "/own");
    let mut admin = entry("e-admin", "spiffe://cloud.example/spire/agent/x", "/admin");
    admin.admin = true;
    let mut down = entry("e-down", "spiffe://cloud.example/spire/agent/x", "/down");
    down.downstream = true;
    let other = entry("wl-1", "spiffe://cloud.example/spire/agent/x", "/workload");
    issuer.set_bundle(&foreign.bundle()).await;
    let mut federated = [entry("fed-1", "spiffe://cloud.example/spire/agent/x", "/fed-1")];
    federated[0].federates_with = vec!["onprem.example".into()];
    let [federated] = federated;
    issuer.create(vec![own, admin, down, other, federated]).await;
    super::federation::create_relationships(issuer).await;
    let mut authorities = LocalAuthorityClient::new(issuer.local());
    let x509 = authorities.get_x509_authority_state(GetX509AuthorityStateRequest {}).await.unwrap().into_inner();
    let jwt = authorities.get_jwt_authority_state(GetJwtAuthorityStateRequest {}).await.unwrap().into_inner();
    let plain = issuer.mint("spiffe://cloud.example/plain").await;
    let admin = issuer.mint("spiffe://cloud.example/admin").await;
    let down = issuer.mint("spiffe://cloud.example/down").await;
    let remote_admin = foreign.svid("spiffe://onprem.example/remote-admin");
    Recording {
        pool: DescriptorPool::decode(federation_specs::proto::FILE_DESCRIPTOR_SET).unwrap(),
        callers: [
            ("local", issuer.local()),
            ("none", issuer.remote(None).await),
            ("agent", issuer.remote(Some(&agent)).await),
            ("plain", issuer.remote(Some(&plain)).await),
            ("admin", issuer.remote(Some(&admin)).await),
            ("down", issuer.remote(Some(&down)).await),
            ("remote-admin", issuer.remote(Some(&remote_admin)).await),
        ]
        .into(),
        placeholders: Placeholders {
            own_root: issuer.bundle().await.x509_authorities()[0].der().to_vec(),
            foreign_root: foreign.root().to_vec(),
            active_x509: x509.active.unwrap().authority_id,
            active_jwt: jwt.active.unwrap().authority_id,
        },
    }
}

type Key = (String, String, String);

/// Differences by RPC, caller (`*` stands for all) and input name, with their reasons.
fn differences() -> BTreeMap<Key, (Outcome, String)> {
    let parse = |line: &str| {
        let [rpc, caller, name, code, message, reason, items, why] = fields(line);
        let outcome = Outcome([code, message, reason, items].map(str::to_owned));
        ((rpc.to_owned(), caller.to_owned(), name.to_owned()), (outcome, why.to_owned()))
    };
    DIFFERENCES.lines().skip(1).map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_call_is_answered_alike_or_differs_on_purpose() {
    let node_ca = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/x509pop/node-ca.pem");
    let issuer = TestIssuer::start(&format!(
        "admin_ids: [spiffe://onprem.example/remote-admin]\n\
         ratelimit: {{ attestation: false }}\n\
         node_attestors: {{ join_token: {{}}, x509pop: {{ ca_bundle_path: {node_ca} }} }}\n"
    ))
    .await;
    let foreign = ForeignDomain::new("onprem.example");
    let recording = prepare(&issuer, &foreign).await;
    let differences = differences();
    let mut used = BTreeSet::new();
    let mut wrong = String::new();
    for row in rows() {
        if row.rpc.ends_with("/BatchDeleteFederatedBundle") && row.name == "RESTRICT mixed" {
            keep_two_federated_entries(&issuer).await;
        }
        let outcome = recording.call(&row).await;
        let key = (row.rpc.to_owned(), row.caller.to_owned(), row.name.to_owned());
        let expected = match differences.get(&key) {
            Some((different, _)) => {
                assert_ne!(*different, row.outcome, "{key:?} is listed as different and is not");
                used.insert(key.clone());
                different
            }
            None => &row.outcome,
        };
        if outcome != *expected {
            let line = [&[key.0, key.1, key.2][..], &outcome.0[..]].concat().join("\t");
            writeln!(wrong, "expected {:?}\n     got {line}", expected.0).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    for (key, (_, why)) in &differences {
        assert!(used.contains(key), "{key:?} is listed as different but was not recorded");
        assert!(CONFORMANCE.contains(&format!("`{why}`")), "docs/conformance.md does not explain {why}");
    }
    issuer.stop().await;
}

/// The recording deletes bundles while two entries federate with `onprem.example`.
async fn keep_two_federated_entries(issuer: &TestIssuer) {
    let mut client = EntryClient::new(issuer.local());
    let request = BatchDeleteEntryRequest { ids: vec!["fed-1".into()] };
    client.batch_delete_entry(request).await.unwrap();
}

#[tokio::test]
async fn an_identity_of_another_domain_that_is_no_admin_is_refused_in_the_handshake() {
    let issuer = TestIssuer::start("").await;
    let foreign = ForeignDomain::new("onprem.example");
    issuer.set_bundle(&foreign.bundle()).await;
    let other = issuer.remote(Some(&foreign.svid("spiffe://onprem.example/other"))).await;
    let mut client = federation_specs::proto::server::bundle::bundle_client::BundleClient::new(other);
    client.get_bundle(federation_specs::proto::server::bundle::GetBundleRequest::default()).await.unwrap_err();
    issuer.stop().await;
}
