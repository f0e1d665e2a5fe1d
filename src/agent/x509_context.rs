//! The X509-SVIDs of a Workload API answer: checked, as text, as files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use federation_specs::bundle::{Bundle, BundleSet, X509Authority};
use federation_specs::certificate::Certificate;
use federation_specs::id::TrustDomain;
use federation_specs::proto::workload::{X509svid, X509svidResponse};
use federation_specs::x509_svid;
use service_kit::keys::PrivateKey;
use time::OffsetDateTime;

use crate::failure::{Failure, error_chain, io_reason};
use crate::notation::{self, counted, quote};
use crate::pem;

const PUBLIC_MODE: u32 = 0o644;
const PRIVATE_MODE: u32 = 0o600;

/// Every X509-SVID of an answer, verified.
pub(super) struct X509Context {
    svids: Vec<Svid>,
    /// Roots of other trust domains, by SPIFFE ID of the domain, sorted.
    federated: Vec<(String, Vec<Certificate>)>,
}

struct Svid {
    id: String,
    hint: String,
    chain: Vec<Certificate>,
    key: PrivateKey,
    roots: Vec<Certificate>,
}

impl X509Context {
    /// Reads an answer; each chain must verify against its own bundle and belong to its key.
    pub(super) fn verify(response: &X509svidResponse, now: OffsetDateTime) -> Result<Self, Failure> {
        if response.svids.is_empty() {
            return Err(Failure::new("the Workload API's answer holds no SVID"));
        }
        let svids = response.svids.iter().map(|svid| {
            Svid::verify(svid, now).map_err(|reason| {
                Failure::new(format!("the X509-SVID {} is not usable: {reason}", quote(&svid.spiffe_id)))
            })
        });
        let svids = svids.collect::<Result<_, _>>()?;
        let mut federated = Vec::new();
        for (id, der) in &response.federated_bundles {
            let roots = certificates(der).map_err(|reason| {
                Failure::new(format!("the federated bundle {} is not usable: {reason}", quote(id)))
            })?;
            federated.push((id.clone(), roots));
        }
        federated.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Self { svids, federated })
    }

    /// The SPIFFE IDs.
    pub(super) fn ids(&self) -> Vec<String> {
        self.svids.iter().map(|svid| svid.id.clone()).collect()
    }

    /// As `api fetch x509` prints it; `api watch` leaves the hints out.
    pub(super) fn pretty(&self, after: Duration, with_hints: bool) -> String {
        let count = counted(self.svids.len() as u64, "svid", "svids");
        let mut text = format!("Received {count} after {}\n\n", notation::duration(after));
        for svid in &self.svids {
            text.push_str(&format!("SPIFFE ID:\t\t{}\n", svid.id));
            if with_hints && !svid.hint.is_empty() {
                text.push_str(&format!("Hint:\t\t\t{}\n", svid.hint));
            }
            for (index, certificate) in svid.chain.iter().enumerate() {
                let label = if index == 0 { "SVID".to_owned() } else { format!("Intermediate #{index}") };
                text.push_str(&validity(&label, certificate));
            }
            for (index, root) in svid.roots.iter().enumerate() {
                text.push_str(&validity(&format!("CA #{}", index + 1), root));
            }
            for (id, roots) in &self.federated {
                for (index, root) in roots.iter().enumerate() {
                    text.push_str(&validity(&format!("[{id}] CA #{}", index + 1), root));
                }
            }
            text.push('\n');
        }
        text
    }

    /// Writes every SVID, key and bundle to `folder`; gives a line for each file.
    pub(super) fn write(&self, folder: &Path) -> Result<String, Failure> {
        let mut lines = String::new();
        let mut write = |name: String, what: &str, bytes: String, mode: u32| {
            let path = folder.join(name);
            lines.push_str(&format!("Writing {what} to file {}.\n", path.display()));
            service_kit::atomic_file::write(&path, bytes.as_bytes(), mode)
                .map_err(|error| Failure::new(format!("open {}: {}", path.display(), io_reason(&error))))
        };
        for (number, svid) in self.svids.iter().enumerate() {
            write(format!("svid.{number}.pem"), &format!("SVID #{number}"), chain_pem(&svid.chain), PUBLIC_MODE)?;
            let key = pem::private_key(svid.key.pkcs8_der());
            write(format!("svid.{number}.key"), &format!("key #{number}"), key, PRIVATE_MODE)?;
            write(format!("bundle.{number}.pem"), &format!("bundle #{number}"), chain_pem(&svid.roots), PUBLIC_MODE)?;
            for (index, (id, roots)) in self.federated.iter().enumerate() {
                let what = format!("federated bundle #{index} for trust domain {id}");
                write(format!("federated_bundle.{number}.{index}.pem"), &what, chain_pem(roots), PUBLIC_MODE)?;
            }
        }
        Ok(lines)
    }
}

impl Svid {
    fn verify(svid: &X509svid, now: OffsetDateTime) -> Result<Self, String> {
        let ders = x509_svid::split_der_certificates(&svid.x509_svid).map_err(|error| error_chain(&error))?;
        let roots = certificates(&svid.bundle)?;
        let id = ders.first().ok_or("it holds no certificate")?;
        let id = x509_svid::leaf_spiffe_id(id).map_err(|error| error_chain(&error))?;
        let mut bundles = BundleSet::new();
        bundles.insert(Arc::new(bundle(id.trust_domain().clone(), &roots)?));
        let verified = x509_svid::verify_chain(&ders, &bundles, now).map_err(|error| error_chain(&error))?;
        if verified.id().to_string() != svid.spiffe_id {
            return Err(format!("its certificate is for {}", verified.id()));
        }
        let key = PrivateKey::from_pkcs8(&svid.x509_svid_key).map_err(|error| error_chain(&error))?;
        if verified.leaf().public_key().map_err(|error| error_chain(&error))? != key.public_key() {
            return Err("its private key is for another certificate".to_owned());
        }
        let chain = ders.iter().map(|der| Certificate::from_der(der)).collect::<Result<_, _>>();
        let chain = chain.map_err(|error| error_chain(&error))?;
        Ok(Self { id: svid.spiffe_id.clone(), hint: svid.hint.clone(), chain, key, roots })
    }
}

fn certificates(der: &[u8]) -> Result<Vec<Certificate>, String> {
    let ders = x509_svid::split_der_certificates(der).map_err(|error| error_chain(&error))?;
    let read = ders.iter().map(|der| Certificate::from_der(der).map_err(|error| error_chain(&error)));
    read.collect()
}

fn bundle(trust_domain: TrustDomain, roots: &[Certificate]) -> Result<Bundle, String> {
    let authorities = roots.iter().map(|root| X509Authority::from_der(root.der()).map_err(|error| error_chain(&error)));
    Ok(Bundle::new(trust_domain).with_x509_authorities(authorities.collect::<Result<Vec<_>, _>>()?))
}

fn chain_pem(certificates: &[Certificate]) -> String {
    pem::certificates(certificates.iter().map(Certificate::der))
}

fn validity(label: &str, certificate: &Certificate) -> String {
    let (after, until) = (notation::time(certificate.not_before()), notation::time(certificate.not_after()));
    format!("{label} Valid After:\t{after}\n{label} Valid Until:\t{until}\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use federation_specs::proto::workload::X509svidResponse;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair, KeyUsagePurpose,
        SanType,
    };

    use super::*;

    /// An authority of cloud.example and an SVID it signed, as the Workload API carries them.
    fn answer(id: &str) -> X509svidResponse {
        let mut root = CertificateParams::default();
        root.distinguished_name = DistinguishedName::new();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        root.subject_alt_names = vec![SanType::URI("spiffe://cloud.example".try_into().unwrap())];
        let not_before = OffsetDateTime::from_unix_timestamp(1_795_342_256).unwrap();
        let not_after = OffsetDateTime::from_unix_timestamp(1_895_342_256).unwrap();
        (root.not_before, root.not_after) = (not_before, not_after);
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        (leaf.not_before, leaf.not_after) = (not_before, not_after);
        let leaf = leaf.signed_by(&key, &root).unwrap();
        X509svidResponse {
            svids: vec![X509svid {
                spiffe_id: id.to_owned(),
                x509_svid: leaf.der().to_vec(),
                x509_svid_key: key.serialize_der(),
                bundle: root.der().to_vec(),
                hint: "main".to_owned(),
            }],
            federated_bundles: [("spiffe://onprem.example".to_owned(), root.der().to_vec())].into(),
            ..X509svidResponse::default()
        }
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_795_342_300).unwrap()
    }

    const ID: &str = "spiffe://cloud.example/workload";

    #[test]
    fn a_verified_answer_is_printed_with_spires_labels() {
        let context = X509Context::verify(&answer(ID), now()).unwrap();
        let (after, until) = ("2026-11-22 10:10:56 +0000 UTC", notation::time_of(1_895_342_256));
        let shown = context.pretty(Duration::from_nanos(2_672_491), true);
        assert_eq!(
            shown,
            format!(
                "Received 1 svid after 2.672491ms\n\nSPIFFE ID:\t\t{ID}\nHint:\t\t\tmain\nSVID Valid After:\t{after}\n\
                 SVID Valid Until:\t{until}\nCA #1 Valid After:\t{after}\nCA #1 Valid Until:\t{until}\n\
                 [spiffe://onprem.example] CA #1 Valid After:\t{after}\n\
                 [spiffe://onprem.example] CA #1 Valid Until:\t{until}\n\n"
            )
        );
        assert!(!context.pretty(Duration::ZERO, false).contains("Hint"));
        assert_eq!(context.ids(), [ID]);
    }

    #[test]
    fn the_labels_are_those_of_the_transcript() {
        let transcript = crate::transcripts::Transcripts::of("agent-fetch-x509").stdout("api fetch x509").to_owned();
        let shown = X509Context::verify(&answer(ID), now()).unwrap().pretty(Duration::ZERO, true);
        let labels = |text: &str| -> Vec<String> {
            let lines = text.lines().skip(1).take(7);
            lines.map(|line| line.rsplit_once('\t').map_or(line, |(label, _)| label).to_owned()).collect()
        };
        assert_eq!(labels(&shown), labels(&transcript));
    }

    #[test]
    fn what_does_not_verify_is_not_printed() {
        let refused = |response: &X509svidResponse, now| {
            X509Context::verify(response, now).map(|_| ()).unwrap_err().text().to_owned()
        };
        let other = answer("spiffe://cloud.example/other");
        let mut foreign_root = answer(ID);
        foreign_root.svids[0].bundle = other.svids[0].bundle.clone();
        let mut foreign_key = answer(ID);
        foreign_key.svids[0].x509_svid_key = other.svids[0].x509_svid_key.clone();
        let mut renamed = answer(ID);
        renamed.svids[0].spiffe_id = "spiffe://cloud.example/root".to_owned();
        let expired = OffsetDateTime::from_unix_timestamp(1_995_342_256).unwrap();
        assert!(
            refused(&foreign_root, now())
                .starts_with("the X509-SVID \"spiffe://cloud.example/workload\" is not usable: ")
        );
        assert!(refused(&foreign_key, now()).ends_with("its private key is for another certificate"));
        assert!(refused(&renamed, now()).ends_with("its certificate is for spiffe://cloud.example/workload"));
        assert!(refused(&answer(ID), expired).contains("not usable"));
        assert!(refused(&X509svidResponse::default(), now()).contains("no SVID"));
    }

    #[test]
    fn files_are_written_and_keys_are_for_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let lines = X509Context::verify(&answer(ID), now()).unwrap().write(folder.path()).unwrap();
        let shown = folder.path().display();
        assert_eq!(
            lines,
            format!(
                "Writing SVID #0 to file {shown}/svid.0.pem.\nWriting key #0 to file {shown}/svid.0.key.\n\
                 Writing bundle #0 to file {shown}/bundle.0.pem.\n\
                 Writing federated bundle #0 for trust domain spiffe://onprem.example to file \
                 {shown}/federated_bundle.0.0.pem.\n"
            )
        );
        let mode = folder.path().join("svid.0.key").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let missing = X509Context::verify(&answer(ID), now()).unwrap().write(&folder.path().join("nosuch"));
        assert!(missing.unwrap_err().text().contains("no such file or directory"));
    }
}
