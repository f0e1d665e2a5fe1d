//! TLS clients that a workload library would not let one build: for tests of who is refused.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    client::WantsClientCert,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

/// A client that believes every server and shows the certificate chain and key of two PEM files, so that whatever
/// refuses the connection is the server.
pub fn gullible_client(chain: &Path, key: &Path) -> Result<ClientConfig> {
    crate::install_crypto();
    let (chain, key) = read(chain, key)?;
    gullible().with_client_auth_cert(chain, key).context("certificate and key do not fit")
}

/// A server that shows the certificate chain and key of two PEM files and asks for none.
pub fn server(chain: &Path, key: &Path) -> Result<ServerConfig> {
    crate::install_crypto();
    let (chain, key) = read(chain, key)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn read(chain: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(&fs::read(chain)?).collect::<Result<Vec<_>, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_slice(&fs::read(key)?)?))
}

/// The same client without a certificate.
pub fn gullible_client_without_certificate() -> ClientConfig {
    crate::install_crypto();
    gullible().with_no_client_auth()
}

/// The same, speaking one version of TLS alone.
pub fn gullible_client_of_version(version: &'static SupportedProtocolVersion) -> ClientConfig {
    crate::install_crypto();
    gullible_of(&[version]).with_no_client_auth()
}

fn gullible() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    gullible_of(rustls::DEFAULT_VERSIONS)
}

fn gullible_of(versions: &[&'static SupportedProtocolVersion]) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_protocol_versions(versions)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(Arc::new(aws_lc_rs::default_provider()))))
}

#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
