//! Crates depend one way: federation-specs, service-kit, the three services, the binary and the tests.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, Result, ensure};
use entente_tests::binary::repository;
use serde_json::Value;

/// What each crate of the workspace may depend on inside the workspace.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("federation-specs", &[]),
    ("service-kit", &["federation-specs"]),
    ("issuer", &["federation-specs", "service-kit"]),
    ("agent", &["federation-specs", "service-kit"]),
    ("gateway", &["federation-specs", "service-kit"]),
    ("entente", &["federation-specs", "service-kit", "issuer", "agent", "gateway"]),
    ("entente-tests", &["federation-specs", "service-kit"]),
];

/// Crates that do I/O, keep time or make randomness: none of them belongs into federation-specs.
const NOT_IN_SPECS: [&str; 14] = [
    "tokio",
    "tokio-rustls",
    "sqlx",
    "reqwest",
    "hyper",
    "hyper-util",
    "axum",
    "rustix",
    "notify",
    "rand",
    "tempfile",
    "tracing-subscriber",
    "clap",
    "rustls",
];

fn packages() -> Result<Vec<Value>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked"])
        .current_dir(repository())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(metadata["packages"].as_array().context("no packages")?.clone())
}

/// Names a package depends on; `kinds` are cargo's: null (normal), "dev", "build".
fn dependencies(package: &Value, kinds: &[Option<&str>]) -> BTreeSet<String> {
    package["dependencies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|dependency| kinds.contains(&dependency["kind"].as_str()))
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn crates_depend_one_way() -> Result<()> {
    let packages = packages()?;
    let members: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(members, known, "a crate was added or removed: say here what it may depend on");
    for package in &packages {
        let name = package["name"].as_str().context("a package without name")?;
        let allowed =
            ALLOWED.iter().find(|(known, _)| *known == name).map(|(_, allowed)| *allowed).context("unknown")?;
        for dependency in dependencies(package, &[None, Some("dev"), Some("build")]) {
            if members.contains(dependency.as_str()) {
                assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
            }
        }
    }
    Ok(())
}

#[test]
fn specs_do_no_io() -> Result<()> {
    let packages = packages()?;
    let specs = packages.iter().find(|package| package["name"] == "federation-specs").context("no federation-specs")?;
    for dependency in dependencies(specs, &[None]) {
        assert!(!NOT_IN_SPECS.contains(&dependency.as_str()), "federation-specs must not depend on {dependency}");
    }
    Ok(())
}
