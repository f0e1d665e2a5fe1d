//! No two files of a crate import each other, neither directly nor over others. A file below a module's own file may
//! take names from that one: the two are one module.

use std::{fs, path::Path};

use anyhow::Result;
use entente_tests::binary::repository;

use crate::modules::Modules;

/// Folders with the sources of a crate.
const SOURCES: [&str; 6] = ["federation-specs/src", "service-kit/src", "issuer/src", "agent/src", "gateway/src", "src"];

/// Whether a file holds tests alone.
fn is_test(path: &str) -> bool {
    path.split(['/', '.']).any(|part| part == "tests" || part == "testing" || part.ends_with("_tests"))
}

fn collect(folder: &Path, below: &str, modules: &mut Modules) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if is_test(&path) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &path, modules)?;
        } else if path.ends_with(".rs") {
            modules.add(&path, &fs::read_to_string(entry.path())?);
        }
    }
    Ok(())
}

#[test]
fn files_depend_one_way() -> Result<()> {
    let mut circles = Vec::new();
    for sources in SOURCES {
        let mut modules = Modules::default();
        collect(&repository().join(sources), "", &mut modules)?;
        assert!(modules.arrows().len() > 10, "{sources}: hardly an import was found");
        circles.extend(modules.circles().into_iter().map(|arrow| format!("{sources}: {arrow}")));
    }
    assert!(
        circles.is_empty(),
        "files import each other in a circle; move what ties them to the lower one, or to a file both use:\n{}",
        circles.join("\n")
    );
    Ok(())
}

fn modules(files: &[(&str, &str)]) -> Modules {
    let mut modules = Modules::default();
    for (path, text) in files {
        modules.add(path, text);
    }
    modules
}

#[test]
fn a_circle_is_told_with_its_files_and_names() {
    let found = modules(&[
        ("lib.rs", "mod a;\npub mod b;\nmod c;\nuse a::One;\n"),
        ("a.rs", "use std::fmt;\n\nuse crate::{\n    b::{self, deep::Two},\n    c::Free,\n};\n"),
        ("b/mod.rs", "pub mod deep;\npub use deep::Two;\n"),
        ("b/deep.rs", "// crate::c::Free\nfn f() -> crate::a::One { super::three() }\n"),
        ("c.rs", "pub struct Free;\n#[cfg(test)]\nmod tests {\n    use crate::a::One;\n}\n"),
    ]);
    assert_eq!(found.circles(), ["a.rs -> b/deep.rs: Two", "b/deep.rs -> a.rs: One"]);
}

#[test]
fn names_handed_on_count_where_they_are_defined() {
    let found = modules(&[
        ("lib.rs", "pub mod store;\nmod domain;\n"),
        ("store/mod.rs", "mod error;\npub use error::StoreError;\nuse crate::domain::Plan;\n"),
        ("store/error.rs", "pub struct StoreError;\n"),
        ("domain.rs", "use crate::store::StoreError;\n"),
    ]);
    assert_eq!(found.circles(), Vec::<String>::new());
    assert_eq!(found.arrows(), ["domain.rs -> store/error.rs: StoreError", "store/mod.rs -> domain.rs: Plan"]);
    let found = modules(&[
        ("store/mod.rs", "use crate::domain::Plan;\npub struct Store;\n"),
        ("domain.rs", "use crate::store;\nfn f(_: store::Store) {}\n"),
    ]);
    assert_eq!(found.circles(), ["domain.rs -> store/mod.rs: Store", "store/mod.rs -> domain.rs: Plan"]);
}
