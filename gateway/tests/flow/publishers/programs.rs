//! Programs of others that are places: moto's server and the Kubernetes API server. `tests/ci/test.sh` prepares them and
//! says where they are; otherwise they are made now. A missing one is a failure, never a skip.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use tokio::process::{Child, Command};

pub fn kubepeer() -> PathBuf {
    prepared("ENTENTE_KUBEPEER", "kubepeer")
}

pub fn python() -> PathBuf {
    prepared("ENTENTE_PYTHON", "python")
}

fn prepared(variable: &str, kind: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/ci/peers.sh");
    let output = std::process::Command::new(script).arg(kind).output().unwrap();
    assert!(output.status.success(), "{script} {kind}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().into()
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a program that ends with the test and waits until its port is open.
pub async fn start(command: &mut Command, port: u16, log: &std::path::Path) -> Child {
    let file = || std::fs::File::options().create(true).append(true).open(log).unwrap();
    let child = command.kill_on_drop(true).stdin(Stdio::null()).stdout(file()).stderr(file()).spawn();
    let mut child = child.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..3000 {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("ended with {status}: {}", std::fs::read_to_string(log).unwrap());
        }
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return child;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("port {port} stays closed: {}", std::fs::read_to_string(log).unwrap());
}
