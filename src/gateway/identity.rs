//! The X509-SVID of a command that talks to a gateway on another machine, and the bundles it believes.

use std::sync::Arc;
use std::time::Duration;

use federation_specs::bundle::{Bundle, BundleSet, X509Authority};
use federation_specs::bundle_json;
use federation_specs::id::TrustDomain;
use federation_specs::proto::workload::{X509svidRequest, X509svidResponse};
use federation_specs::x509_svid::split_der_certificates;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use service_kit::keys::PrivateKey;
use service_kit::tls::X509Identity;

use crate::connect::{self, AgentSocket};
use crate::failure::{Failure, error_chain};
use crate::input;
use crate::notation::quote;

/// How long the Workload API may take to give an X509-SVID.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// An X509-SVID and what its peers are verified with.
pub(super) struct Identity {
    pub(super) svid: X509Identity,
    pub(super) bundles: BundleSet,
}

/// The files of an X509-SVID.
pub(super) struct Files<'a> {
    /// PEM certificate chain, leaf first.
    pub(super) cert: &'a str,
    /// PEM private key.
    pub(super) key: &'a str,
    /// PEM certificates or a SPIFFE bundle document.
    pub(super) bundle: &'a str,
}

impl Identity {
    /// The X509-SVID in files; the bundle is that of `server`, the trust domain of the gateway.
    pub(super) fn from_files(files: &Files<'_>, server: &TrustDomain) -> Result<Self, Failure> {
        let unusable = |path: &str, reason: String| Failure::new(format!("{} cannot be used: {reason}", quote(path)));
        let chain = certificates(&input::bytes(files.cert)?).map_err(|reason| unusable(files.cert, reason))?;
        let key = PrivateKeyDer::from_pem_slice(&input::bytes(files.key)?)
            .map_err(|error| unusable(files.key, error.to_string()))?;
        let key = PrivateKey::from_der(&key).map_err(|error| unusable(files.key, error_chain(&error)))?;
        let svid = X509Identity::new(chain, &key).map_err(|error| unusable(files.cert, error_chain(&error)))?;
        let document = input::bytes(files.bundle)?;
        let bundle = match document.starts_with(b"{") {
            true => {
                let parsed = bundle_json::parse(server, &document);
                parsed.map_err(|error| unusable(files.bundle, error_chain(&error)))?.bundle
            }
            false => {
                let roots = certificates(&document).map_err(|reason| unusable(files.bundle, reason))?;
                bundle(server, roots.iter().map(AsRef::as_ref)).map_err(|reason| unusable(files.bundle, reason))?
            }
        };
        Ok(Self { svid, bundles: [Arc::new(bundle)].into_iter().collect() })
    }

    fn from_answer(answer: &X509svidResponse) -> Result<Self, String> {
        let first = answer.svids.first().ok_or("it gives no X509-SVID; create an entry for this user")?;
        let words = |error: &(dyn std::error::Error + 'static)| error_chain(error);
        let split = |der: &[u8]| split_der_certificates(der).map_err(|error| words(&error));
        let key = PrivateKey::from_pkcs8(&first.x509_svid_key).map_err(|error| words(&error))?;
        let chain = split(&first.x509_svid)?.into_iter().map(CertificateDer::from).collect();
        let svid = X509Identity::new(chain, &key).map_err(|error| words(&error))?;
        let mut bundles = BundleSet::new();
        let mut add = |name: &TrustDomain, der: &[u8]| {
            let roots = split(der)?;
            bundles.insert(Arc::new(bundle(name, roots.iter().map(Vec::as_slice))?));
            Ok::<_, String>(())
        };
        for (name, der) in &answer.federated_bundles {
            add(&TrustDomain::from_name_or_id(name).map_err(|error| words(&error))?, der)?;
        }
        add(svid.id().trust_domain(), &first.bundle)?;
        Ok(Self { svid, bundles })
    }
}

/// The first X509-SVID a Workload API gives.
pub(super) async fn fetch(socket: &AgentSocket) -> Result<Identity, Failure> {
    let api = socket.connect().await?;
    let fetch = async {
        let mut stream = connect::workload(&api).fetch_x509svid(X509svidRequest {}).await?.into_inner();
        stream.message().await
    };
    let answer = tokio::time::timeout(FETCH_LIMIT, fetch).await.map_err(|_| {
        Failure::new(format!("the Workload API gave no X509-SVID within {} s", FETCH_LIMIT.as_secs()))
    })??;
    let answer = answer.ok_or_else(|| Failure::new("the Workload API ended without an X509-SVID"))?;
    Identity::from_answer(&answer)
        .map_err(|reason| Failure::new(format!("what the Workload API gives cannot be used: {reason}")))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("it holds no PEM certificate".to_owned()) } else { Ok(certificates) }
}

fn bundle<'a>(trust_domain: &TrustDomain, roots: impl Iterator<Item = &'a [u8]>) -> Result<Bundle, String> {
    let authorities: Result<Vec<_>, _> = roots.map(X509Authority::from_der).collect();
    let authorities = authorities.map_err(|error| error_chain(&error))?;
    Ok(Bundle::new(trust_domain.clone()).with_x509_authorities(authorities))
}
