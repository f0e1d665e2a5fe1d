//! Keys and certificates of partners, good and bad: a web certificate authority and an authority of a trust domain,
//! both of which sign whatever a test wants.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, string::Ia5String,
};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use serde_json::{Map, Value, json};

/// A certificate chain, leaf first, and the key of the leaf.
#[derive(Debug)]
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the leaf.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// A TLS server that presents it and speaks one of `protocols`.
    pub fn server(self, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>> {
        crate::install_crypto();
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(self.chain, self.key)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// The same, but clients must present a certificate of `authority`.
    pub fn server_that_asks_for_a_certificate(
        self,
        authority: &CertificateDer<'static>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Arc<ServerConfig>> {
        crate::install_crypto();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
        let builder = ServerConfig::builder_with_protocol_versions(versions).with_client_cert_verifier(verifier);
        Ok(Arc::new(builder.with_single_cert(self.chain, self.key)?))
    }
}

fn authority_params(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn sign(
    issuer: &Issuer<'static, KeyPair>,
    root: &CertificateDer<'static>,
    params: &CertificateParams,
    copies_of_root: usize,
) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let mut chain = vec![params.signed_by(&key, issuer)?.der().clone()];
    chain.extend(std::iter::repeat_n(root.clone(), copies_of_root));
    Ok(Identity { chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) })
}

/// A web certificate authority.
#[derive(Debug)]
pub struct WebAuthority {
    /// Its certificate, PEM; what a relationship's `ca_file` names.
    pub file: PathBuf,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl WebAuthority {
    /// Makes one and writes its certificate to `file`.
    pub fn create(file: &Path) -> Result<Self> {
        let params = authority_params("Partners' web CA")?;
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        fs::write(file, certificate.pem())?;
        Ok(Self { file: file.to_owned(), certificate: certificate.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// A certificate for `localhost` and 127.0.0.1.
    pub fn localhost(&self) -> Result<Identity> {
        self.certificate(&["localhost"], |_| {})
    }

    /// A certificate for other names, changed before it is signed.
    pub fn certificate(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Result<Identity> {
        let mut params = web_params(names)?;
        change(&mut params);
        sign(&self.issuer, &self.certificate, &params, 0)
    }
}

fn web_params(names: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
    if names.contains(&"localhost") {
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A certificate for `localhost` that its own key signed.
pub fn self_signed() -> Result<Identity> {
    let key = KeyPair::generate()?;
    let certificate = web_params(&["localhost"])?.self_signed(&key)?;
    Ok(Identity { chain: vec![certificate.der().clone()], key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) })
}

/// The keys of one trust domain: a root and a JWT authority.
#[derive(Debug)]
pub struct Keys {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    jwt: KeyPair,
}

impl Keys {
    /// New ones.
    pub fn create(trust_domain: &str) -> Result<Self> {
        Self::create_with(trust_domain, |_| {})
    }

    /// New ones; the root is changed before it is signed.
    pub fn create_with(trust_domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<Self> {
        let mut params = authority_params(&format!("Root of {trust_domain}"))?;
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{trust_domain}"))?)];
        change(&mut params);
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?.der().clone();
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            issuer: Issuer::new(params, key),
            root,
            jwt: KeyPair::generate()?,
        })
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// SPIFFE ID of the domain's bundle endpoint.
    pub fn endpoint_id(&self) -> String {
        format!("spiffe://{}/endpoint", self.trust_domain)
    }

    /// The X509-SVID of the domain's bundle endpoint.
    pub fn endpoint(&self) -> Result<Identity> {
        self.svid(|_| {}, 0)
    }

    /// That X509-SVID, changed before it is signed, followed by copies of the root.
    pub fn svid(&self, change: impl FnOnce(&mut CertificateParams), copies_of_root: usize) -> Result<Identity> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(self.endpoint_id())?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        sign(&self.issuer, &self.root, &params, copies_of_root)
    }

    /// The root as element of `keys`.
    pub fn root_jwk(&self) -> Value {
        x509_jwk(self.issuer.key(), &self.root)
    }

    /// The certificate of the root, DER.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The JWT authority as element of `keys`.
    pub fn jwt_jwk(&self) -> Value {
        let mut jwk = jwk("jwt-svid", &self.jwt);
        jwk.insert("kid".to_owned(), json!("first"));
        Value::Object(jwk)
    }

    /// The bundle, in the standard's JSON.
    pub fn bundle(&self, sequence: u64, refresh_hint: u64) -> Value {
        self.bundle_with(self.jwt_jwk(), sequence, refresh_hint)
    }

    /// The bundle after rotations: the JWT authority's key ID is the sequence number.
    pub fn rotated_bundle(&self, sequence: u64, refresh_hint: u64) -> Value {
        let mut key = self.jwt_jwk();
        key["kid"] = json!(sequence.to_string());
        self.bundle_with(key, sequence, refresh_hint)
    }

    fn bundle_with(&self, jwt: Value, sequence: u64, refresh_hint: u64) -> Value {
        json!({
            "keys": [self.root_jwk(), jwt],
            "spiffe_sequence": sequence,
            "spiffe_refresh_hint": refresh_hint,
        })
    }
}

/// An element of `keys` with the public members of a P-256 key.
pub fn jwk(key_use: &str, key: &KeyPair) -> Map<String, Value> {
    // 4, x, y
    let (x, y) = key.public_key_raw().get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
    let mut members = Map::new();
    for (name, value) in [
        ("use", key_use.to_owned()),
        ("kty", "EC".to_owned()),
        ("crv", "P-256".to_owned()),
        ("x", URL_SAFE_NO_PAD.encode(x)),
        ("y", URL_SAFE_NO_PAD.encode(y)),
    ] {
        members.insert(name.to_owned(), Value::String(value));
    }
    members
}

fn x509_jwk(key: &KeyPair, certificate: &CertificateDer<'_>) -> Value {
    let mut jwk = jwk("x509-svid", key);
    jwk.insert("x5c".to_owned(), json!([STANDARD.encode(certificate)]));
    Value::Object(jwk)
}

/// A certificate of the right key that is no authority, as element of `keys`.
pub fn leaf_jwk() -> Result<Value> {
    let key = KeyPair::generate()?;
    let mut params = web_params(&["localhost"])?;
    params.is_ca = IsCa::ExplicitNoCa;
    let certificate = params.self_signed(&key)?;
    Ok(x509_jwk(&key, certificate.der()))
}

/// A root with an RSA key of 1024 bits, as element of `keys`.
pub fn weak_root_jwk() -> Result<Value> {
    use rustls::pki_types::pem::PemObject as _;
    use x509_parser::{parse_x509_certificate, public_key::PublicKey};

    let der = CertificateDer::from_pem_slice(include_bytes!("weak-root.pem"))?;
    let (_, certificate) = parse_x509_certificate(&der)?;
    let PublicKey::RSA(key) = certificate.public_key().parsed()? else { anyhow::bail!("weak-root.pem is not RSA") };
    let modulus = key.modulus.strip_prefix(&[0]).context("the modulus has no leading zero")?;
    Ok(json!({
        "use": "x509-svid",
        "kty": "RSA",
        "n": URL_SAFE_NO_PAD.encode(modulus),
        "e": URL_SAFE_NO_PAD.encode(key.exponent),
        "x5c": [STANDARD.encode(&der)],
    }))
}
