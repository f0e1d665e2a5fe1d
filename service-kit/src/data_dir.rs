//! The data folder of a service and the lock that keeps a second process out of it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

/// Permission bits of a data folder this service creates.
pub const DATA_DIR_MODE: u32 = 0o700;

/// Name of the lock file inside the data folder.
pub const LOCK_FILE: &str = "lock";

/// Longest process id read back from a lock file.
const MAX_LOCK_FILE_BYTES: u64 = 32;

/// Why a data folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process holds the lock.
    #[error("data folder {} is in use by another process{}; stop it or choose another data_dir", path.display(), holder(*pid))]
    InUse {
        /// The data folder.
        path: PathBuf,
        /// Process id found in the lock file.
        pid: Option<u32>,
    },
    /// The folder cannot be created.
    #[error("data folder {} cannot be created: {source}; create it for this user or choose another data_dir", path.display())]
    Create {
        /// The data folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path exists and is no folder.
    #[error("data folder {} is not a folder; choose another data_dir", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The lock file cannot be opened, locked or written.
    #[error("data folder {} cannot be written: {source}; make it writable for this user or choose another data_dir", path.display())]
    NotWritable {
        /// The data folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// An exclusive hold on a data folder, released when dropped or when the process ends in any way.
#[derive(Debug)]
pub struct DataDirLock {
    path: PathBuf,
    _file: File,
}

impl DataDirLock {
    /// The locked folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates the folder if it is missing (mode 0700) and takes an exclusive lock on `<path>/lock`.
///
/// # Errors
/// [`DataDirError`], each naming the folder and what to do.
pub fn lock(path: &Path) -> Result<DataDirLock, DataDirError> {
    let owned = || path.to_path_buf();
    match DirBuilder::new().recursive(true).mode(DATA_DIR_MODE).create(path) {
        Ok(()) => {}
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            return Err(DataDirError::NotAFolder { path: owned() });
        }
        Err(source) => return Err(DataDirError::Create { path: owned(), source }),
    }
    if !fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(DataDirError::NotAFolder { path: owned() });
    }
    let not_writable = |source| DataDirError::NotWritable { path: owned(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK_FILE))
        .map_err(not_writable)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(DataDirError::InUse { path: owned(), pid: read_pid(&mut file) });
        }
        Err(errno) => return Err(not_writable(errno.into())),
    }
    let mut write_pid = || -> io::Result<()> {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid().map_err(|source| DataDirError::NotWritable { path: owned(), source })?;
    Ok(DataDirLock { path: owned(), _file: file })
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(MAX_LOCK_FILE_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn creates_locks_refuses_a_second_and_releases() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let held = lock(&path).unwrap();
        assert_eq!(fs::metadata(held.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let error = lock(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "data folder {} is in use by another process (pid {}); stop it or choose another data_dir",
                path.display(),
                std::process::id()
            )
        );
        drop(held);
        lock(&path).unwrap();
    }

    #[test]
    fn a_file_is_no_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"").unwrap();
        assert!(matches!(lock(&path), Err(DataDirError::NotAFolder { .. })));
        let error = lock(&path.join("below")).unwrap_err();
        assert!(error.to_string().contains("choose another data_dir"), "{error}");
    }

    #[test]
    fn a_lock_path_that_cannot_be_opened_is_not_writable() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(LOCK_FILE)).unwrap();
        assert!(matches!(lock(folder.path()), Err(DataDirError::NotWritable { .. })));
    }
}
