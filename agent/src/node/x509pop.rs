//! The `x509pop` node attestor: proof of holding the key of a certificate this node already has
//! (SPIRE 1.15).

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use aws_lc_rs::{
    rand::{SecureRandom, SystemRandom},
    rsa::KeyPair as RsaKeyPair,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P521_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA256,
        RsaPssSaltLength,
    },
};
use federation_specs::{
    attestation::{
        EcdsaSignatureResponse, NONCE_BYTES, RsaSignatureResponse, X509POP, X509popChallenge, X509popPayload,
        X509popResponse,
    },
    certificate::Certificate,
    public_key::{KeyKind, PublicKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{NodeAttestor, NodeAttestorError, read_file};

/// Name of the attestor.
pub const NAME: &str = X509POP;

/// Largest certificate or key file read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Certificates sent at most.
const MAX_CERTIFICATES: usize = 16;

/// Attests with a certificate and its key, read anew at each attestation.
#[derive(Debug, Clone)]
pub struct X509PopAttestor {
    private_key_path: PathBuf,
    certificate_path: PathBuf,
    intermediates_path: Option<PathBuf>,
}

impl X509PopAttestor {
    /// An attestor for these PEM files. The intermediates are sent after the certificates of `certificate_path`.
    pub fn new(private_key_path: PathBuf, certificate_path: PathBuf, intermediates_path: Option<PathBuf>) -> Self {
        Self { private_key_path, certificate_path, intermediates_path }
    }

    fn chain(&self) -> Result<Vec<Vec<u8>>, NodeAttestorError> {
        let mut chain = certificates("certificate_path", &self.certificate_path)?;
        if let Some(path) = &self.intermediates_path {
            chain.extend(certificates("intermediates_path", path)?);
        }
        if chain.len() > MAX_CERTIFICATES {
            let reason = format!("there are {} certificates, more than {MAX_CERTIFICATES}", chain.len());
            return Err(content("certificate_path", &self.certificate_path, reason));
        }
        Ok(chain)
    }

    fn key(&self, chain: &[Vec<u8>]) -> Result<NodeKey, NodeAttestorError> {
        let unusable = |reason: String| content("private_key_path", &self.private_key_path, reason);
        let pem = read_file("private_key_path", &self.private_key_path, MAX_FILE_BYTES)?;
        let der =
            PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(format!("no private key in PEM: {error}")))?;
        let leaf = chain.first().and_then(|leaf| Certificate::from_der(leaf).ok());
        let public = leaf.as_ref().and_then(|leaf| leaf.public_key().ok());
        let public = public.ok_or_else(|| {
            content(
                "certificate_path",
                &self.certificate_path,
                "the key of its first certificate is not supported".into(),
            )
        })?;
        let key = NodeKey::read(der.secret_der(), public).map_err(unusable)?;
        if key.public_bits() != public.subject_key_bits() {
            return Err(unusable("it is not the key of the first certificate in certificate_path".into()));
        }
        Ok(key)
    }
}

fn content(what: &'static str, path: &Path, reason: String) -> NodeAttestorError {
    NodeAttestorError::Content { what, path: path.display().to_string(), reason }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<Vec<u8>>, NodeAttestorError> {
    let pem = read_file(what, path, MAX_FILE_BYTES)?;
    let found = CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| certificate.map(|certificate| certificate.as_ref().to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(what, path, format!("no certificates in PEM: {error}")))?;
    if found.is_empty() {
        return Err(content(what, path, "no certificate in it; give PEM".into()));
    }
    Ok(found)
}

/// The node's private key, in the forms that can answer a challenge.
enum NodeKey {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl NodeKey {
    /// Reads PKCS#8, SEC 1 or PKCS#1 for a key of the certificate's kind.
    fn read(der: &[u8], public: &PublicKey) -> Result<Self, String> {
        let ecdsa = |algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).map(Self::Ecdsa);
        let key = match public.kind() {
            KeyKind::P256 => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            KeyKind::P521 => ecdsa(&ECDSA_P521_SHA256_FIXED_SIGNING),
            KeyKind::Rsa(_) => RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).map(Self::Rsa),
            // The digest is SHA-256 whatever the curve, and the crypto library signs it on P-256 and P-521 only.
            other => return Err(format!("x509pop needs an RSA, P-256 or P-521 key, not {other:?}")),
        };
        key.map_err(|error| format!("it is no private key of the certificate's kind ({error})"))
    }

    fn public_bits(&self) -> &[u8] {
        match self {
            Self::Ecdsa(pair) => pair.public_key().as_ref(),
            Self::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    /// Signs SHA-256(challenge nonce ‖ response nonce).
    fn answer(
        &self,
        challenge: &X509popChallenge,
        random: &SystemRandom,
    ) -> Result<X509popResponse, NodeAttestorError> {
        let bad = |reason: &str| NodeAttestorError::BadChallenge(reason.into());
        let mut nonce = [0; NONCE_BYTES];
        random.fill(&mut nonce).map_err(|_| NodeAttestorError::Crypto)?;
        let message = |theirs: &[u8]| -> Result<Vec<u8>, NodeAttestorError> {
            if theirs.len() != NONCE_BYTES {
                return Err(bad("its nonce has not 32 bytes"));
            }
            Ok([theirs, &nonce].concat())
        };
        match self {
            Self::Ecdsa(pair) => {
                let challenge = challenge.ecdsa_signature.as_ref().ok_or_else(|| bad("it is not for an ECDSA key"))?;
                let signature =
                    pair.sign(random, &message(&challenge.nonce)?).map_err(|_| NodeAttestorError::Crypto)?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                let answer = EcdsaSignatureResponse { nonce: nonce.to_vec(), r: minimal(r), s: minimal(s) };
                Ok(X509popResponse { ecdsa_signature: Some(answer), rsa_signature: None })
            }
            Self::Rsa(pair) => {
                let challenge = challenge.rsa_signature.as_ref().ok_or_else(|| bad("it is not for an RSA key"))?;
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding = &const { RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Max) };
                pair.sign(padding, random, &message(&challenge.nonce)?, &mut signature)
                    .map_err(|_| NodeAttestorError::Crypto)?;
                Ok(X509popResponse {
                    rsa_signature: Some(RsaSignatureResponse { nonce: nonce.to_vec(), signature }),
                    ecdsa_signature: None,
                })
            }
        }
    }
}

/// Big-endian bytes without leading zeros.
fn minimal(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
}

#[async_trait]
impl NodeAttestor for X509PopAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn payload(&self) -> Result<Zeroizing<Vec<u8>>, NodeAttestorError> {
        let chain = self.chain()?;
        // Read here already, so that a wrong key is found before the issuer is asked.
        self.key(&chain)?;
        Ok(Zeroizing::new(X509popPayload { certificates: chain }.to_json()))
    }

    async fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestorError> {
        let challenge = X509popChallenge::from_json(challenge)
            .map_err(|error| NodeAttestorError::BadChallenge(error.to_string()))?;
        let key = self.key(&self.chain()?)?;
        // RSA takes milliseconds: off the async threads.
        let response = tokio::task::spawn_blocking(move || key.answer(&challenge, &SystemRandom::new()))
            .await
            .map_err(|_| NodeAttestorError::Crypto)??;
        Ok(response.to_json())
    }
}

#[cfg(test)]
mod tests;
