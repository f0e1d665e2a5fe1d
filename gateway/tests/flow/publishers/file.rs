//! A file.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use async_trait::async_trait;
use federation_specs::{bundle::Bundle, bundle_json};
use serde_json::{Value, json};

use super::conformance::{Place, conformance};

struct FilePlace {
    folder: tempfile::TempDir,
}

impl FilePlace {
    fn path(&self) -> PathBuf {
        self.folder.path().join("published/bundle.json")
    }
}

#[async_trait]
impl Place for FilePlace {
    fn config(&self) -> Value {
        json!({"file": {"path": self.path(), "mode": "0640"}})
    }

    fn document(&self, bundle: &Bundle) -> Vec<u8> {
        bundle_json::encode(bundle)
    }

    async fn held(&self) -> Option<Vec<u8>> {
        std::fs::read(self.path()).ok()
    }

    async fn version(&self) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(self.path()).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
        format!("{} {}.{}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
    }

    async fn put(&self, document: &[u8]) {
        let new = self.path().with_extension("new");
        std::fs::write(&new, document).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    async fn remove(&self) -> bool {
        std::fs::remove_file(self.path()).is_ok()
    }

    /// The superuser may do anything, so the folder itself goes away.
    async fn deny(&self, denied: bool) -> &'static str {
        let folder = self.path().parent().unwrap().to_owned();
        let away = folder.with_extension("away");
        let (from, to) = if denied { (&folder, &away) } else { (&away, &folder) };
        std::fs::rename(from, to).unwrap();
        "not found: the folder of the file; create it"
    }

    async fn down(&self, _down: bool) -> bool {
        false
    }

    fn has_sequence(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_conforms() {
    let place = FilePlace { folder: tempfile::tempdir().unwrap() };
    std::fs::create_dir(place.path().parent().unwrap()).unwrap();
    conformance(&place).await;
}
