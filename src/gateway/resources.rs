//! The files `entente gateway apply` reads: YAML or JSON, each document with a list of relationships.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gateway::api::managed::Definition;
use gateway::config::Resources;
use service_kit::config;

use crate::failure::{Failure, error_chain, io_reason};
use crate::identifiers;
use crate::input;
use crate::notation::quote;

/// Endings of the files of a folder that are read.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Standard input.
const STANDARD_INPUT: &str = "-";

/// The relationships of files, of all such files of folders, and of standard input (`-`). Files they name are read
/// relative to their own, and their text takes the place of their path.
pub(super) fn read(paths: &[String]) -> Result<Vec<Definition>, Failure> {
    if paths.is_empty() {
        return Err(Failure::new("nothing to apply: name a file, a folder or - for standard input by -f"));
    }
    let mut files = Vec::new();
    for path in paths {
        if path != STANDARD_INPUT && Path::new(path).is_dir() {
            files.extend(of_folder(path)?);
        } else {
            files.push(path.clone());
        }
    }
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut all = Vec::new();
    for file in files {
        for (place, relationship) in of_file(&file)? {
            let partner = identifiers::trust_domain(&relationship.trust_domain)
                .map_err(|failure| failure.context(&format!("{place}.trust_domain")))?;
            if let Some(first) = seen.insert(partner.to_string(), place.clone()) {
                return Err(Failure::new(format!("{partner} is defined twice, in {first} and in {place}; keep one")));
            }
            all.push(relationship);
        }
    }
    Ok(all)
}

/// The files of a folder by name; folders in it are not looked at.
fn of_folder(folder: &str) -> Result<Vec<String>, Failure> {
    let unreadable =
        |error: &std::io::Error| Failure::new(format!("cannot read folder {}: {}", quote(folder), io_reason(error)));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(&error))? {
        let path = entry.map_err(|error| unreadable(&error))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if ENDINGS.contains(&ending) && !hidden && path.is_file() {
            files.push(path.display().to_string());
        }
    }
    if files.is_empty() {
        return Err(Failure::new(format!("folder {} has no .yaml, .yml or .json file", quote(folder))));
    }
    files.sort();
    Ok(files)
}

/// The relationships of one file, each with its place.
fn of_file(file: &str) -> Result<Vec<(String, Definition)>, Failure> {
    let text = input::read(file)?;
    let name = if file == STANDARD_INPUT { "standard input" } else { file };
    let documents: Vec<Resources> =
        config::documents(&text, name).map_err(|error| Failure::new(error_chain(&error)))?;
    let several = documents.len() > 1;
    let folder = Path::new(file).parent().filter(|_| file != STANDARD_INPUT).map(Path::to_path_buf).unwrap_or_default();
    let mut found = Vec::new();
    for (number, document) in documents.into_iter().enumerate() {
        for (index, mut relationship) in document.relationships.into_iter().enumerate() {
            let document = if several { format!(" document {}", number + 1) } else { String::new() };
            let place = format!("{name}{document}: relationships[{index}]");
            in_place(&place, "ca_file", &folder, &mut relationship.ca_file, &mut relationship.ca_pem)?;
            let (file, text) = (&mut relationship.bootstrap_bundle_file, &mut relationship.bootstrap_bundle);
            in_place(&place, "bootstrap_bundle_file", &folder, file, text)?;
            found.push((place, relationship));
        }
    }
    Ok(found)
}

/// Puts the text of a file in the place of its path.
fn in_place(
    place: &str,
    key: &str,
    folder: &Path,
    path: &mut Option<PathBuf>,
    text: &mut Option<String>,
) -> Result<(), Failure> {
    let Some(named) = path.take() else { return Ok(()) };
    if text.is_some() {
        return Err(Failure::new(format!("{place}.{key}: its text is given as well; remove one of them")));
    }
    let read = input::read(&folder.join(named).display().to_string());
    *text = Some(read.map_err(|failure| failure.context(&format!("{place}.{key}")))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn one(name: &str) -> String {
        format!("  - {{ trust_domain: {name}, url: 'https://{name}/', profile: https_web }}\n")
    }

    fn names(paths: &[&str]) -> Result<Vec<String>, String> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let read = read(&paths).map_err(|failure| failure.text().to_owned())?;
        Ok(read.into_iter().map(|relationship| relationship.trust_domain).collect())
    }

    #[test]
    fn files_folders_and_documents_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display().to_string();
        write(
            &folder,
            "b.yaml",
            &format!("relationships:\n{}---\nrelationships:\n{}", one("b1.example"), one("b2.example")),
        );
        write(
            &folder,
            "a.json",
            r#"{"relationships": [{"trust_domain": "a.example", "url": "https://a/", "profile": "https_web"}]}"#,
        );
        write(&folder, ".hidden.yaml", "nonsense: 1\n");
        write(&folder, "notes.txt", "nonsense: 1\n");
        write(&folder, "more/c.yaml", &format!("relationships:\n{}", one("c.example")));
        assert_eq!(names(&[&dir]).unwrap(), ["a.example", "b1.example", "b2.example"]);
        let more = folder.path().join("more");
        assert_eq!(names(&[&dir, &more.display().to_string()]).unwrap().len(), 4);
        assert_eq!(names(&[&write(&folder, "none.yml", "relationships: []\n")]).unwrap(), Vec::<String>::new());
        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert!(names(&[&empty.display().to_string()]).unwrap_err().contains("has no .yaml, .yml or .json file"));
        assert!(names(&[]).unwrap_err().contains("nothing to apply"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |text: &str| write(&folder, "r.yaml", text);
        let refused = |text: &str| names(&[&file(text)]).unwrap_err();
        assert!(
            refused("relationship: []\n").contains("unknown key `relationship` in "),
            "{}",
            refused("relationship: []\n")
        );
        let typo = refused(
            "relationships:\n  - { trust_domain: a.example, url: 'https://a/', profile: https_web, mod: hold }\n",
        );
        assert!(typo.contains("unknown key `relationships[0].mod`") && typo.contains("did you mean `mode`?"), "{typo}");
        assert!(
            refused(&format!("relationships:\n{}{}", one("a.example"), one("spiffe://a.example")))
                .contains("a.example is defined twice, in ")
        );
        let twice = refused(&format!("relationships:\n{}---\nrelationships:\n{}", one("a.example"), one("a.example")));
        assert!(twice.contains("r.yaml document 1: relationships[0] and in "), "{twice}");
        let missing = refused(
            "relationships:\n  - { trust_domain: a.example, url: 'https://a/', profile: https_web, ca_file: no.pem }\n",
        );
        assert!(missing.contains("relationships[0].ca_file: open ") && missing.contains("no.pem"), "{missing}");
        assert!(names(&["/nowhere.yaml"]).unwrap_err().contains("open /nowhere.yaml: no such file"));
    }

    #[test]
    fn named_files_are_read_from_beside_the_file_that_names_them() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "sets/ca/partner.pem", "the text\n");
        let path = write(
            &folder,
            "sets/r.yaml",
            "relationships:\n  - { trust_domain: a.example, url: 'https://a/', profile: https_web, ca_file: ca/partner.pem }\n",
        );
        let read = read(&[path]).unwrap();
        assert_eq!((read[0].ca_pem.as_deref(), &read[0].ca_file), (Some("the text\n"), &None));
    }
}
