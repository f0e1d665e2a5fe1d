//! Generates the gRPC messages, clients and servers from the `.proto` files,
//! without an installed `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

const PROTO_ROOT: &str = "proto";

/// Messages that carry private keys, bearer tokens or attestation proofs.
/// `src/proto/redacted.rs` gives them a `Debug` that leaves those out.
const SECRET_MESSAGES: [&str; 12] = [
    ".X509SVID",
    ".JWTSVID",
    ".WITSVID",
    ".ValidateJWTSVIDRequest",
    ".spiffe.broker.X509SVID",
    ".spiffe.broker.JWTSVID",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".spire.api.types.AttestationData",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.JoinToken",
    ".spire.api.types.WITSVID",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let root = Path::new(PROTO_ROOT);
    let mut files = Vec::new();
    collect_protos(root, &mut files)?;
    files.sort();

    let descriptors = protox::compile(&files, [root])?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; run this through cargo")?);
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .skip_debug(SECRET_MESSAGES)
        .compile_fds(descriptors)?;
    Ok(())
}

fn collect_protos(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_protos(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
