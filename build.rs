//! Lays the functions that run when a gateway starts, and while it idles, side by side in the program that is shipped.
//! A page of the file is mapped whole, and the kernel maps its neighbours with it; scattered over the file, these
//! functions would have nearly all of it resident.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

/// Mangled names without their hashes, one a line; made by `make startup-order`.
const ORDER: &str = "src/startup-order.txt";

/// Only profile `dist` is optimized for size, so this tells it from the others.
const SHIPPED: &str = "s";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ORDER}");
    if env::var("CARGO_CFG_TARGET_OS")? != "linux" || env::var("OPT_LEVEL")? != SHIPPED {
        return Ok(());
    }
    let mut script = "SECTIONS\n{\n\t.text.startup :\n\t{\n".to_owned();
    for name in fs::read_to_string(ORDER)?.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        // Rust's names end with a hash of the very version. Cold functions have sections of another name.
        let end = if name.ends_with("17h") { "*" } else { "" };
        writeln!(script, "\t\t*(.text.{name}{end} .text.unlikely.{name}{end})")?;
    }
    script.push_str("\t}\n}\nINSERT BEFORE .text;\n");
    let file = Path::new(&env::var("OUT_DIR")?).join("startup.ld");
    fs::write(&file, script)?;
    println!("cargo::rustc-link-arg-bin=entente=-Wl,-T,{}", file.display());
    Ok(())
}
