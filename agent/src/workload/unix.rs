//! The `unix` workload attestor: user, groups and executable of a process (SPIRE 1.15).

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use federation_specs::selector::Selector;
use service_kit::clock::SharedClock;

use super::{
    SelectorSet, WorkloadAttestor, WorkloadAttestorError,
    accounts::Accounts,
    digest::{self, Digests},
};

/// Name of the attestor and type of its selectors.
pub const NAME: &str = "unix";

/// Environment variable that names another mount point of the proc file system.
pub const HOST_PROC: &str = "HOST_PROC";

/// Largest `/proc/<pid>/status` read.
const MAX_STATUS_BYTES: u64 = 1 << 20;

/// Options of the attestor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixOptions {
    /// Adds the `path` selector and, subject to `workload_size_limit`, the `sha256` selector.
    pub discover_workload_path: bool,
    /// Largest executable hashed, in bytes; 0 for no limit, negative for no `sha256` selector.
    pub workload_size_limit: i64,
}

/// Describes processes from the proc file system and the account files.
#[derive(Debug, Clone)]
pub struct UnixAttestor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: UnixOptions,
    proc_root: PathBuf,
    passwd: PathBuf,
    group: PathBuf,
    digests: Digests,
    clock: SharedClock,
}

impl UnixAttestor {
    /// An attestor reading `/proc`, or the folder named by the environment variable [`HOST_PROC`].
    pub fn new(options: UnixOptions, clock: SharedClock) -> Self {
        let proc_root = std::env::var_os(HOST_PROC).filter(|path| !path.is_empty()).unwrap_or_else(|| "/proc".into());
        Self::with_paths(options, clock, proc_root.into(), "/etc/passwd".into(), "/etc/group".into())
    }

    fn with_paths(
        options: UnixOptions,
        clock: SharedClock,
        proc_root: PathBuf,
        passwd: PathBuf,
        group: PathBuf,
    ) -> Self {
        Self { inner: Arc::new(Inner { options, proc_root, passwd, group, digests: Digests::default(), clock }) }
    }
}

#[async_trait]
impl WorkloadAttestor for UnixAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, pid: i32) -> Result<SelectorSet, WorkloadAttestorError> {
        if pid <= 0 {
            return Err(WorkloadAttestorError::ProcessGone(pid));
        }
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.describe(pid))
            .await
            .unwrap_or(Err(WorkloadAttestorError::Interrupted(pid)))
    }
}

impl Inner {
    fn describe(&self, pid: i32) -> Result<SelectorSet, WorkloadAttestorError> {
        let folder = self.proc_root.join(pid.to_string());
        let status = ProcessStatus::read(&folder.join("status"), pid)?;
        let users = accounts(&self.passwd);
        let groups = accounts(&self.group);

        let mut selectors = Selectors { pid, set: SelectorSet::new() };
        selectors.add("uid", &status.uid.to_string())?;
        if let Some(user) = users.name_of(status.uid) {
            selectors.add("user", user)?;
        }
        selectors.add("gid", &status.gid.to_string())?;
        if let Some(group) = groups.name_of(status.gid) {
            selectors.add("group", group)?;
        }
        for gid in status.supplementary_gids {
            selectors.add("supplementary_gid", &gid.to_string())?;
            if let Some(group) = groups.name_of(gid) {
                selectors.add("supplementary_group", group)?;
            }
        }
        if self.options.discover_workload_path {
            self.describe_executable(&folder.join("exe"), &mut selectors)?;
        }
        Ok(selectors.set)
    }

    fn describe_executable(&self, link: &Path, selectors: &mut Selectors) -> Result<(), WorkloadAttestorError> {
        let pid = selectors.pid;
        let unreadable = |source| unreadable("the executable", pid, source);
        let path = std::fs::read_link(link).map_err(unreadable)?;
        match path.to_str() {
            Some(path) => selectors.add("path", path)?,
            None => tracing::debug!(pid, "path of the executable is not UTF-8; no path selector"),
        }
        let Ok(limit) = u64::try_from(self.options.workload_size_limit) else { return Ok(()) };
        // Opened through /proc, so that the bytes are those of the running program even if the path was replaced.
        let mut file = File::open(link).map_err(unreadable)?;
        let size = digest::size(&file).map_err(unreadable)?;
        if limit > 0 && size > limit {
            return Err(WorkloadAttestorError::TooLarge { pid, size, limit });
        }
        let sha256 = self.digests.sha256(&mut file, self.clock.now()).map_err(unreadable)?;
        let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        selectors.add("sha256", &hex)
    }
}

fn accounts(path: &Path) -> Accounts {
    Accounts::read(path).unwrap_or_else(|error| {
        tracing::debug!(path = %path.display(), %error, "account file cannot be read; names are left out");
        Accounts::empty()
    })
}

fn unreadable(what: &'static str, pid: i32, source: io::Error) -> WorkloadAttestorError {
    // A process that ends while it is examined shows as a missing file or as "no such process".
    if source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
    {
        WorkloadAttestorError::ProcessGone(pid)
    } else {
        WorkloadAttestorError::Unreadable { what, pid, source }
    }
}

struct Selectors {
    pid: i32,
    set: SelectorSet,
}

impl Selectors {
    fn add(&mut self, name: &str, value: &str) -> Result<(), WorkloadAttestorError> {
        let selector = Selector::new(NAME, format!("{name}:{value}"))
            .map_err(|error| WorkloadAttestorError::Selector { pid: self.pid, reason: error.to_string() })?;
        self.set.insert(selector);
        Ok(())
    }
}

/// The lines of `/proc/<pid>/status` that matter: effective IDs and supplementary groups.
#[derive(Debug, PartialEq, Eq)]
struct ProcessStatus {
    uid: u32,
    gid: u32,
    supplementary_gids: Vec<u32>,
}

impl ProcessStatus {
    fn read(path: &Path, pid: i32) -> Result<Self, WorkloadAttestorError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_STATUS_BYTES).read_to_string(&mut text))
            .map_err(|source| unreadable("the status", pid, source))?;
        Self::parse(&text).ok_or(WorkloadAttestorError::Malformed { what: "the status", pid })
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers = |key: &str| -> Option<Vec<u32>> {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
        };
        // Real, effective, saved, file system: the effective one counts.
        let effective = |key: &str| numbers(key).filter(|ids| ids.len() == 4).map(|ids| ids[1]);
        Some(Self {
            uid: effective("Uid:")?,
            gid: effective("Gid:")?,
            supplementary_gids: numbers("Groups:").unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use service_kit::clock::SystemClock;

    use super::*;
    use crate::workload::conformance;

    fn options(discover_workload_path: bool, workload_size_limit: i64) -> UnixOptions {
        UnixOptions { discover_workload_path, workload_size_limit }
    }

    /// A proc tree with one process, number 42.
    fn fixture(options: UnixOptions) -> (tempfile::TempDir, UnixAttestor) {
        let folder = tempfile::tempdir().unwrap();
        let process = folder.path().join("proc/42");
        fs::create_dir_all(&process).unwrap();
        fs::write(
            process.join("status"),
            "Name:\tweb\nTgid:\t42\nUid:\t1000\t1001\t1002\t1003\nGid:\t2000\t2001\t2002\t2003\nGroups:\t27 2001 4000 \n",
        )
        .unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"abc").unwrap();
        symlink(&program, process.join("exe")).unwrap();
        let passwd = folder.path().join("passwd");
        fs::write(&passwd, "web:x:1001:2001::/:/bin/false\nreal:x:1000:2000::/:/bin/false\n").unwrap();
        let group = folder.path().join("group");
        fs::write(&group, "sudo:x:27:\nwww:x:2001:web\n").unwrap();
        let attestor =
            UnixAttestor::with_paths(options, SystemClock::shared(), folder.path().join("proc"), passwd, group);
        (folder, attestor)
    }

    fn values(selectors: &SelectorSet) -> Vec<String> {
        selectors.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn conforms() {
        conformance::check(&UnixAttestor::new(options(false, 0), SystemClock::shared())).await;
        conformance::check(&UnixAttestor::new(options(true, 0), SystemClock::shared())).await;
    }

    #[tokio::test]
    async fn effective_ids_names_and_groups() {
        let (_folder, attestor) = fixture(options(false, 0));
        assert_eq!(
            values(&attestor.attest(42).await.unwrap()),
            [
                "unix:gid:2001",
                "unix:group:www",
                "unix:supplementary_gid:2001",
                "unix:supplementary_gid:27",
                "unix:supplementary_gid:4000",
                "unix:supplementary_group:sudo",
                "unix:supplementary_group:www",
                "unix:uid:1001",
                "unix:user:web",
            ]
        );
    }

    #[tokio::test]
    async fn executable_path_and_digest() {
        let (folder, attestor) = fixture(options(true, 3));
        let found = values(&attestor.attest(42).await.unwrap());
        assert!(found.contains(&format!("unix:path:{}", folder.path().join("program").display())));
        let sha256 = "unix:sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(found.iter().any(|value| value == sha256), "{found:?}");

        let (_folder, no_hash) = fixture(options(true, -1));
        let found = values(&no_hash.attest(42).await.unwrap());
        assert!(found.iter().any(|value| value.starts_with("unix:path:")));
        assert!(!found.iter().any(|value| value.starts_with("unix:sha256:")));
    }

    #[tokio::test]
    async fn an_executable_over_the_limit_fails_the_attestor() {
        let (_folder, attestor) = fixture(options(true, 2));
        assert_eq!(
            attestor.attest(42).await.unwrap_err().to_string(),
            "executable of process 42 has 3 bytes, more than workload_size_limit 2"
        );
    }

    #[tokio::test]
    async fn account_files_are_optional() {
        let (folder, attestor) = fixture(options(false, 0));
        fs::remove_file(folder.path().join("passwd")).unwrap();
        fs::remove_file(folder.path().join("group")).unwrap();
        assert_eq!(
            values(&attestor.attest(42).await.unwrap()),
            [
                "unix:gid:2001",
                "unix:supplementary_gid:2001",
                "unix:supplementary_gid:27",
                "unix:supplementary_gid:4000",
                "unix:uid:1001",
            ]
        );
    }

    #[test]
    fn malformed_status_is_refused() {
        assert_eq!(ProcessStatus::parse("Uid:\t1\t2\t3\t4\n"), None);
        assert_eq!(ProcessStatus::parse("Uid:\t1\t2\nGid:\t1\t2\t3\t4\n"), None);
        assert_eq!(ProcessStatus::parse("Uid:\ta\t2\t3\t4\nGid:\t1\t2\t3\t4\n"), None);
        let without_groups = ProcessStatus::parse("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n").unwrap();
        assert_eq!(without_groups, ProcessStatus { uid: 2, gid: 6, supplementary_gids: vec![] });
    }
}
