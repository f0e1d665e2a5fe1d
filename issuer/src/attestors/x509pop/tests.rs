use super::{
    testing::{payload, pki, sign, uri},
    *,
};
use crate::{
    attestors::testing::{Answer, NoChallenge},
    store::MIGRATIONS,
};
use federation_specs::attestation::{EcdsaSignatureResponse, RsaSignatureResponse};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use service_kit::{clock::ManualClock, database::Database};
use std::sync::Arc;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-23 10:00 UTC);

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/x509pop").join(name)
}

fn der(name: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(testdata(name)).unwrap().to_vec()
}

fn leaf(name: &str) -> NodeCertificate {
    NodeCertificate::from_der(&der(name), "cloud.example").unwrap()
}

async fn store(folder: &Path) -> Store {
    let clock = Arc::new(ManualClock::new(NOW));
    let database = Database::open(&folder.join("issuer.sqlite3"), &MIGRATIONS, clock).await.unwrap();
    Store::open(database, TrustDomain::parse("cloud.example").unwrap()).await.unwrap()
}

fn options() -> X509popConfig {
    X509popConfig { ca_bundle_path: Some(testdata("node-ca.pem")), ..X509popConfig::default() }
}

async fn attestor(options: X509popConfig) -> X509popAttestor {
    let folder = tempfile::tempdir().unwrap();
    X509popAttestor::open(options, &store(folder.path()).await).unwrap()
}

fn attempt(payload: Vec<u8>) -> Attempt {
    Attempt { payload, client_address: Some(IpAddr::from([127, 0, 0, 1])), now: NOW }
}

async fn refusal(options: X509popConfig, attempt: Attempt) -> (Code, String) {
    let error = attestor(options).await.attest(attempt, &mut NoChallenge).await.unwrap_err();
    (error.code, error.message)
}

/// The nonce of a captured challenge.
fn captured_nonce(name: &str) -> Vec<u8> {
    let challenge = X509popChallenge::from_json(&fs::read(testdata(name)).unwrap()).unwrap();
    challenge.rsa_signature.or(challenge.ecdsa_signature).unwrap().nonce
}

#[test]
fn responses_captured_from_a_spire_agent_verify() {
    for kind in ["rsa", "ec"] {
        let leaf = leaf(&format!("node-{kind}.pem"));
        let response = fs::read(testdata(&format!("response-{kind}.json"))).unwrap();
        let nonce = captured_nonce(&format!("challenge-{kind}.json"));
        check_response(leaf.parsed(), &nonce, &response).unwrap();
        let error = check_response(leaf.parsed(), &[0; NONCE_BYTES], &response).unwrap_err();
        assert_eq!(error, AttestationError::denied("challenge response verification failed: signature verify failed"));
    }
}

#[test]
fn responses_of_the_wrong_shape_are_refused() {
    let leaf = leaf("node-ec.pem");
    let nonce = [7; NONCE_BYTES];
    let rsa = RsaSignatureResponse { nonce: vec![0; 32], signature: vec![1; 256] };
    let other_kind = X509popResponse { rsa_signature: Some(rsa), ecdsa_signature: None };
    let short = EcdsaSignatureResponse { nonce: vec![0; 31], r: vec![1], s: vec![1] };
    let short = X509popResponse { rsa_signature: None, ecdsa_signature: Some(short) };
    for (response, text) in
        [(other_kind, "no signature of the certificate's kind of key"), (short, "invalid nonce length")]
    {
        let error = check_response(leaf.parsed(), &nonce, &response.to_json()).unwrap_err();
        assert_eq!(error, AttestationError::denied(format!("challenge response verification failed: {text}")));
    }
    let error = check_response(leaf.parsed(), &nonce, b"not json").unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
}

#[tokio::test]
async fn a_node_is_named_by_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let pki = pki(|params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "node1");
        params.serial_number = Some(rcgen::SerialNumber::from(vec![0x0a, 0xbc]));
        params.subject_alt_names =
            vec![uri("x509pop://cloud.example/rack/r1/slot2"), uri("x509pop://other.example/rack/zz")];
    });
    let roots = folder.path().join("roots.pem");
    fs::write(&roots, pki.root.pem()).unwrap();
    let template = "/{{ .PluginName }}/{{ .URISanSelectors.rack }}/{{ .SerialNumberHex }}";
    let options = X509popConfig {
        ca_bundle_path: None,
        ca_bundle_paths: vec![roots, testdata("node-ca.pem")],
        agent_path_template: Some(template.into()),
        ..options()
    };
    let attestor = X509popAttestor::open(options, &store(folder.path()).await).unwrap();
    let mut agent = Answer(|challenge: &[u8]| sign(&pki.leaf_key, challenge));
    let attested = attestor.attest(attempt(payload(&[pki.leaf.der().to_vec()])), &mut agent).await.unwrap();
    assert_eq!(attested.agent_id.to_string(), "spiffe://cloud.example/spire/agent/x509pop/r1/slot2/0abc");
    assert!(attested.can_reattest && attested.spends_token.is_none());
    let values: Vec<_> = attested.selectors.iter().map(ToString::to_string).collect();
    let root = format!("x509pop:ca:fingerprint:{}", certificate::fingerprint(pki.root.der()));
    let expected = ["x509pop:subject:cn:node1", &root, "x509pop:serialnumber:0abc", "x509pop:san:rack:r1/slot2"]
        .map(str::to_owned);
    assert_eq!(values, expected);
}

#[tokio::test]
async fn an_exchanged_svid_names_the_agent_in_spiffe_mode() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let options = X509popConfig { mode: Mode::Spiffe, ca_bundle_path: None, ..X509popConfig::default() };
    let attestor = X509popAttestor::open(options, &store).unwrap();
    let pki = pki(|params| params.subject_alt_names = vec![uri("spiffe://cloud.example/spire-exchange/node/7")]);
    let request = || attempt(payload(&[pki.leaf.der().to_vec()]));
    let unknown = attestor.attest(request(), &mut NoChallenge).await.unwrap_err();
    assert_eq!(unknown.code, Code::PermissionDenied, "not of the own bundle: {unknown}");
    let root = federation_specs::bundle::X509Authority::from_der(pki.root.der()).unwrap();
    store.append_to_own_bundle(&[root], &[]).await.unwrap();
    let mut agent = Answer(|challenge: &[u8]| sign(&pki.leaf_key, challenge));
    let attested = attestor.attest(request(), &mut agent).await.unwrap();
    assert_eq!(attested.agent_id.to_string(), "spiffe://cloud.example/spire/agent/x509pop/node/7");
}

#[tokio::test]
async fn what_a_spire_agent_sent_gets_its_known_name_and_selectors() {
    let attestor = attestor(options()).await;
    let leaf = leaf("node-ec.pem");
    let fingerprints = attestor.verify(leaf.parsed(), &[], NOW).unwrap();
    let attested = attestor.attested(&leaf, fingerprints, None).unwrap();
    let id = "spiffe://cloud.example/spire/agent/x509pop/65d6b2c6e8466d227dc9ac8e32bb47c8ed0c8517";
    assert_eq!(attested.agent_id.to_string(), id);
    let mut values: Vec<_> = attested.selectors.iter().map(ToString::to_string).collect();
    values.sort();
    let expected = [
        "x509pop:ca:fingerprint:5f24cf8bbdd55e174aa8ba6cd2ed0782bbb6ff21",
        "x509pop:san:rack:r1/slot2",
        "x509pop:serialnumber:4bf0394534f451fc7b38f90d5c3c81277dc17bc6",
        "x509pop:subject:cn:node1.ec",
    ];
    assert_eq!(values, expected);
}

#[tokio::test]
async fn refusals_come_in_the_documented_order() {
    let ec = der("node-ec.pem");
    let (code, text) = refusal(options(), attempt(b"\0".to_vec())).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.starts_with("failed to unmarshal data: "), "{text}");
    let empty = refusal(options(), attempt(payload(&[]))).await;
    assert_eq!(empty, (Code::InvalidArgument, "no certificate to attest".into()));
    let many = refusal(options(), attempt(payload(&vec![ec.clone(); 6]))).await;
    assert_eq!(many, (Code::InvalidArgument, "too many intermediate certificates".into()));
    let (code, text) = refusal(options(), attempt(payload(&[b"no certificate".to_vec()]))).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.starts_with("unable to parse leaf certificate: "), "{text}");
    let small = X509popConfig { max_rsa_key_size: 2048, ..options() };
    attestor(small.clone()).await.read(&payload(&[der("node-rsa.pem")])).unwrap();
    let (code, text) = refusal(options(), attempt(payload(&[pki(|_| ()).leaf.der().to_vec()]))).await;
    assert_eq!(code, Code::PermissionDenied);
    assert!(text.starts_with("certificate verification failed: "), "{text}");
    let expired = Attempt { now: datetime!(2027-11-23 10:00 UTC), ..attempt(payload(std::slice::from_ref(&ec))) };
    assert_eq!(refusal(options(), expired).await.0, Code::PermissionDenied);
    let by_address = X509popConfig { verify_client_ip: true, ..options() };
    let elsewhere =
        Attempt { client_address: Some(IpAddr::from([10, 0, 0, 1])), ..attempt(payload(std::slice::from_ref(&ec))) };
    assert_eq!(refusal(by_address.clone(), elsewhere).await.0, Code::PermissionDenied);
    let local = Attempt { client_address: None, ..attempt(payload(&[ec])) };
    assert_eq!(refusal(by_address, local).await.0, Code::Internal);
}

#[tokio::test]
async fn a_leaf_that_may_not_sign_gets_no_challenge() {
    let folder = tempfile::tempdir().unwrap();
    let pki = pki(|params| params.key_usages = vec![rcgen::KeyUsagePurpose::KeyAgreement]);
    let roots = folder.path().join("roots.pem");
    fs::write(&roots, pki.root.pem()).unwrap();
    let options = X509popConfig { ca_bundle_path: Some(roots), ..options() };
    let (code, text) = refusal(options, attempt(payload(&[pki.leaf.der().to_vec()]))).await;
    assert_eq!(code, Code::Internal);
    assert_eq!(text, "unable to generate challenge: certificate not intended for digital signature use");
}

#[test]
fn options_are_checked_with_their_remedy() {
    let problem = |options: X509popConfig| options.check().unwrap_err().to_string();
    assert!(problem(X509popConfig::default()).starts_with("ca_bundle_path is missing"));
    let twice = X509popConfig { ca_bundle_paths: vec!["a".into()], ..options() };
    assert!(problem(twice).contains("both set"));
    assert!(problem(X509popConfig { mode: Mode::Spiffe, ..options() }).contains("mode spiffe"));
    assert!(problem(X509popConfig { svid_prefix: "x".into(), ..options() }).contains("svid_prefix"));
    assert!(problem(X509popConfig { max_intermediates: 9, ..options() }).contains("0 to 8"));
    assert!(problem(X509popConfig { max_rsa_key_size: 1024, ..options() }).contains("2048 to 8192"));
    assert!(problem(X509popConfig { agent_path_template: Some("x".into()), ..options() }).contains("begin with /"));
}

#[tokio::test]
async fn missing_and_empty_root_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let open = |path: PathBuf| {
        let options = X509popConfig { ca_bundle_path: Some(path), ..X509popConfig::default() };
        X509popAttestor::open(options, &store).unwrap_err().to_string()
    };
    let missing = folder.path().join("missing.pem");
    assert!(open(missing.clone()).contains(&missing.display().to_string()));
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    assert!(open(empty).contains("are not usable"));
}
