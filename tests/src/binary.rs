//! Finding the `entente` binary under test.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail};

/// The `entente` binary: `ENTENTE_BIN` if set, otherwise built now in the folder this test was built in, so that a
/// plain `cargo test` never tests yesterday's binary.
pub fn entente() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BINARY.get_or_init(|| locate().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

fn locate() -> Result<PathBuf> {
    if let Some(path) = env::var_os("ENTENTE_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("ENTENTE_BIN names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let test = env::current_exe()?;
    // <target>/<profile>/deps/<test>, or <target>/<profile>/<program>
    let folder = test.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "deps"));
    let profile = folder.unwrap_or(&test).parent().context("this test runs from no cargo target folder")?;
    let target = profile.parent().context("this test runs from no cargo target folder")?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(repository()).env("CARGO_TARGET_DIR", target);
    match profile.file_name() {
        Some(name) if name != "debug" => drop(cargo.arg("--profile").arg(name)),
        _ => {}
    }
    let status = cargo.status().context("cannot run cargo to build `entente`")?;
    if !status.success() {
        bail!("`entente` does not build: {status}");
    }
    Ok(profile.join("entente"))
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
