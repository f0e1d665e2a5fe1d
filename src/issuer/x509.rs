//! `entente issuer x509 mint`.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use federation_specs::id::SpiffeId;
use federation_specs::proto::server::bundle::GetBundleRequest;
use federation_specs::proto::server::svid::MintX509svidRequest;
use serde_json::json;
use service_kit::clock::{Clock as _, SystemClock};
use service_kit::config::HumanDuration;
use service_kit::csr::{self, CsrSubject};
use service_kit::keys::{KeyType, PrivateKey};

use super::jwt::{capped, request_ttl, required_id, write};
use crate::connect::{self, IssuerSocket};
use crate::failure::Failure;
use crate::output::{self, Format, OutputArguments};
use crate::pem;
use crate::standard_error;

const PUBLIC_MODE: u32 = 0o644;
const PRIVATE_MODE: u32 = 0o600;

/// The commands of `entente issuer x509`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make an X509-SVID with a fresh key for any workload, without an entry
    Mint(Mint),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Mint {
    #[command(flatten)]
    socket: IssuerSocket,
    /// SPIFFE ID of the X509-SVID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// How long it is valid, like 1h; the issuer's default unless given
    #[arg(long, value_name = "DURATION")]
    ttl: Option<HumanDuration>,
    /// A DNS name for the certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// Write svid.pem, key.pem and bundle.pem to this folder instead of standard output
    #[arg(long, value_name = "DIR")]
    write: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

/// A minted SVID with its key and the roots it chains to. `Debug` is not derived: it holds a private key.
struct Minted {
    chain: Vec<Vec<u8>>,
    key: PrivateKey,
    roots: Vec<Vec<u8>>,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Mint(arguments) = command;
    let spiffe_id = required_id(arguments.spiffe_id.as_deref())?;
    let spiffe_id = SpiffeId::parse(spiffe_id).map_err(|error| Failure::chain(&error))?;
    let ttl = arguments.ttl.map(HumanDuration::get).unwrap_or_default();
    let ttl_seconds = request_ttl(ttl)?;
    let key = PrivateKey::generate(KeyType::EcP256)
        .map_err(|error| Failure::chain(&error).context("unable to generate key"))?;
    let csr = csr::create(&key, CsrSubject::empty(), Some(&spiffe_id), &arguments.dns)
        .map_err(|error| Failure::chain(&error).context("unable to make the CSR"))?;

    let api = arguments.socket.connect().await?;
    let asked_at = SystemClock.now();
    let minted = connect::svids(&api).mint_x509svid(MintX509svidRequest { csr, ttl: ttl_seconds }).await;
    let minted = minted.map_err(|status| Failure::from(status).context("unable to mint SVID"))?.into_inner();
    let svid = minted.svid.ok_or_else(|| Failure::new("the issuer's answer holds no SVID"))?;
    let bundle = connect::bundles(&api).get_bundle(GetBundleRequest { output_mask: None }).await;
    let bundle = bundle.map_err(|status| Failure::from(status).context("unable to get bundle"))?.into_inner();
    if let Some(line) = capped("X509-SVID", ttl, asked_at, svid.expires_at) {
        standard_error::to_stderr(&line);
    }
    let roots = bundle.x509_authorities.into_iter().map(|authority| authority.asn1).collect();
    let minted = Minted { chain: svid.cert_chain, key, roots };
    match (arguments.write.as_deref().filter(|path| !path.is_empty()), arguments.output.format) {
        (Some(folder), _) => output::to_stdout(&minted.write(Path::new(folder))?),
        (None, Format::Json) => output::to_stdout(&minted.json()),
        (None, Format::Pretty) => output::to_stdout(&minted.pretty()),
    }
}

impl Minted {
    fn chain_pem(&self) -> String {
        pem::certificates(self.chain.iter().map(Vec::as_slice))
    }

    fn key_pem(&self) -> String {
        pem::private_key(self.key.pkcs8_der())
    }

    fn roots_pem(&self) -> String {
        pem::certificates(self.roots.iter().map(Vec::as_slice))
    }

    fn pretty(&self) -> String {
        let (chain, key, roots) = (self.chain_pem(), self.key_pem(), self.roots_pem());
        format!("X509-SVID:\n{chain}\nPrivate key:\n{key}\nRoot CAs:\n{roots}\n")
    }

    /// In the order of SPIRE's structure, which is not sorted.
    fn json(&self) -> String {
        let encode = |der: &Vec<u8>| STANDARD.encode(der);
        let chain: Vec<_> = self.chain.iter().map(encode).collect();
        let roots: Vec<_> = self.roots.iter().map(encode).collect();
        let key = STANDARD.encode(self.key.pkcs8_der().as_slice());
        let value = json!({"x509_svid": chain, "private_key": key, "root_cas": roots});
        format!("{value}\n")
    }

    /// Writes the three files; gives a line for each.
    fn write(&self, folder: &Path) -> Result<String, Failure> {
        let files = [
            ("svid.pem", self.chain_pem(), PUBLIC_MODE, "X509-SVID", "SVID"),
            ("key.pem", self.key_pem(), PRIVATE_MODE, "Private key", "key"),
            ("bundle.pem", self.roots_pem(), PUBLIC_MODE, "Root CAs", "bundle"),
        ];
        let mut lines = String::new();
        for (name, text, mode, label, what) in files {
            let path = folder.join(name);
            write(&path, text.as_bytes(), mode)
                .map_err(|failure| failure.context(&format!("unable to write {what}")))?;
            lines.push_str(&format!("{label} written to {}\n", path.display()));
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn minted() -> Minted {
        Minted { chain: vec![vec![1; 60]], key: PrivateKey::generate(KeyType::EcP256).unwrap(), roots: vec![vec![2]] }
    }

    #[test]
    fn pretty_text_has_three_parts_with_an_empty_line_after_each() {
        let text = minted().pretty();
        assert!(text.starts_with("X509-SVID:\n-----BEGIN CERTIFICATE-----\n"));
        assert!(text.contains("-----END CERTIFICATE-----\n\nPrivate key:\n-----BEGIN PRIVATE KEY-----\n"));
        assert!(text.contains("-----END PRIVATE KEY-----\n\nRoot CAs:\n-----BEGIN CERTIFICATE-----\n"));
        assert!(text.ends_with("-----END CERTIFICATE-----\n\n"));
    }

    #[test]
    fn json_names_chain_key_and_roots_in_this_order() {
        let text = minted().json();
        assert!(text.starts_with("{\"x509_svid\":[\"AQEB"), "{text}");
        assert!(text.ends_with("\"root_cas\":[\"Ag==\"]}\n"), "{text}");
    }

    #[test]
    fn the_key_file_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let lines = minted().write(folder.path()).unwrap();
        assert!(lines.starts_with("X509-SVID written to ") && lines.ends_with("/bundle.pem\n"), "{lines}");
        let mode = |name: &str| folder.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("key.pem"), 0o600);
        assert_eq!(mode("svid.pem"), 0o644);
        let missing = folder.path().join("nosuch");
        assert!(minted().write(&missing).unwrap_err().text().starts_with("unable to write SVID: open "));
    }
}
