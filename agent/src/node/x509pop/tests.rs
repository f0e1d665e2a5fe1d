use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED, RSA_PSS_2048_8192_SHA256, RsaPssSaltLength, UnparsedPublicKey},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{
    CertificateParams, KeyPair as CertificateKey, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
};
use serde_json::{Value, json};

use super::*;

struct Node {
    folder: tempfile::TempDir,
    certificate: Vec<u8>,
}

impl Node {
    fn new(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let key = CertificateKey::generate_for(algorithm).unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("node.pem"), certificate.pem()).unwrap();
        Self { folder, certificate: certificate.der().to_vec() }
    }

    fn attestor(&self, intermediates: Option<&str>) -> X509PopAttestor {
        let path = |name: &str| self.folder.path().join(name);
        X509PopAttestor::new(path("key.pem"), path("node.pem"), intermediates.map(path))
    }

    fn public_key(&self) -> Vec<u8> {
        Certificate::from_der(&self.certificate).unwrap().public_key().unwrap().subject_key_bits().to_vec()
    }
}

const NONCE: [u8; NONCE_BYTES] = [7; NONCE_BYTES];

fn challenge(kind: &str) -> Vec<u8> {
    json!({ kind: { "nonce": BASE64_STANDARD.encode(NONCE) } }).to_string().into_bytes()
}

fn field(response: &Value, kind: &str, name: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(response[kind][name].as_str().unwrap()).unwrap()
}

/// r and s padded to one fixed-size signature.
fn fixed(response: &Value, kind: &str) -> Vec<u8> {
    ["r", "s"]
        .iter()
        .flat_map(|name| {
            let number = field(response, kind, name);
            [vec![0; 32 - number.len()], number].concat()
        })
        .collect()
}

#[tokio::test]
async fn ecdsa_answer_verifies() {
    let node = Node::new(&PKCS_ECDSA_P256_SHA256);
    let attestor = node.attestor(None);
    let payload: Value = serde_json::from_slice(&attestor.payload().await.unwrap()).unwrap();
    assert_eq!(payload, json!({"certificates": [BASE64_STANDARD.encode(&node.certificate)]}));

    for _ in 0..20 {
        let answer = attestor.answer(&challenge("ecdsa_signature")).await.unwrap();
        let response: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(response["rsa_signature"], Value::Null);
        let nonce = field(&response, "ecdsa_signature", "nonce");
        for number in ["r", "s"] {
            assert_ne!(field(&response, "ecdsa_signature", number).first(), Some(&0), "numbers are minimal");
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, node.public_key());
        key.verify(&[NONCE.as_slice(), &nonce].concat(), &fixed(&response, "ecdsa_signature")).unwrap();
    }
}

#[tokio::test]
async fn rsa_answer_verifies_with_the_longest_salt() {
    let node = Node::new(&PKCS_RSA_SHA256);
    let answer = node.attestor(None).answer(&challenge("rsa_signature")).await.unwrap();
    let response: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(response["ecdsa_signature"], Value::Null);
    let message = [NONCE.as_slice(), &field(&response, "rsa_signature", "nonce")].concat();
    let padding = &const { RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max) };
    let key = UnparsedPublicKey::new(padding, node.public_key());
    key.verify(&message, &field(&response, "rsa_signature", "signature")).unwrap();
}

/// A challenge and its answer as a SPIRE server and agent exchanged them.
fn captured(text: &str) -> (Value, Value) {
    let line = |name: &str| -> Value {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        serde_json::from_str(line).unwrap()
    };
    (line("challenge "), line("response "))
}

fn leaf_key(pem: &[u8]) -> Vec<u8> {
    let leaf = CertificateDer::from_pem_slice(pem).unwrap();
    Certificate::from_der(&leaf).unwrap().public_key().unwrap().subject_key_bits().to_vec()
}

#[test]
fn captured_answers_sign_what_this_attestor_signs() {
    let (challenge, response) = captured(include_str!("../../../testdata/x509pop-ec.txt"));
    let message =
        [field(&challenge, "ecdsa_signature", "nonce"), field(&response, "ecdsa_signature", "nonce")].concat();
    let key =
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, leaf_key(include_bytes!("../../../testdata/node-ec.pem")));
    key.verify(&message, &fixed(&response, "ecdsa_signature")).unwrap();

    let (challenge, response) = captured(include_str!("../../../testdata/x509pop-rsa.txt"));
    let message = [field(&challenge, "rsa_signature", "nonce"), field(&response, "rsa_signature", "nonce")].concat();
    let padding = &const { RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max) };
    let key = UnparsedPublicKey::new(padding, leaf_key(include_bytes!("../../../testdata/node-rsa.pem")));
    key.verify(&message, &field(&response, "rsa_signature", "signature")).unwrap();
    assert_eq!(digest(&SHA256, &message).as_ref().len(), 32);

    // What this attestor writes has the members of what was captured.
    let ours = X509popResponse::from_json(response.to_string().as_bytes()).unwrap().to_json();
    assert_eq!(serde_json::from_slice::<Value>(&ours).unwrap(), response);
}

#[tokio::test]
async fn sends_intermediates_after_the_certificate() {
    let node = Node::new(&PKCS_ECDSA_P256_SHA256);
    let other = Node::new(&PKCS_ECDSA_P256_SHA256);
    std::fs::copy(other.folder.path().join("node.pem"), node.folder.path().join("above.pem")).unwrap();
    let payload = node.attestor(Some("above.pem")).payload().await.unwrap();
    let payload = X509popPayload::from_json(&payload).unwrap();
    assert_eq!(payload.certificates, [node.certificate, other.certificate]);
}

#[tokio::test]
async fn wrong_files_are_named() {
    let node = Node::new(&PKCS_ECDSA_P256_SHA256);
    let other = Node::new(&PKCS_ECDSA_P256_SHA256);
    let error = async |attestor: X509PopAttestor| attestor.payload().await.unwrap_err().to_string();

    let key = other.folder.path().join("key.pem");
    let mismatch = X509PopAttestor::new(key, node.folder.path().join("node.pem"), None);
    assert!(error(mismatch).await.ends_with("it is not the key of the first certificate in certificate_path"));

    std::fs::write(other.folder.path().join("key.pem"), "no key").unwrap();
    assert!(error(other.attestor(None)).await.contains("private_key_path"));
    std::fs::write(other.folder.path().join("node.pem"), "").unwrap();
    assert!(error(other.attestor(None)).await.contains("no certificate in it"));
    assert!(error(node.attestor(Some("missing.pem"))).await.contains("intermediates_path"));

    let p384 = Node::new(&PKCS_ECDSA_P384_SHA384);
    assert!(error(p384.attestor(None)).await.contains("x509pop needs an RSA, P-256 or P-521 key"));
}

#[tokio::test]
async fn strange_challenges_are_refused() {
    let node = Node::new(&PKCS_ECDSA_P256_SHA256);
    let attestor = node.attestor(None);
    for challenge in [
        b"garbage".to_vec(),
        b"{}".to_vec(),
        challenge("rsa_signature"),
        br#"{"ecdsa_signature":{"nonce":"AAAA"}}"#.to_vec(),
    ] {
        assert!(matches!(attestor.answer(&challenge).await, Err(NodeAttestorError::BadChallenge(_))));
    }
}
