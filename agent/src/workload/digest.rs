//! SHA-256 of executables, each hashed once however many callers run it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use time::{Duration, OffsetDateTime};

/// Files whose digest is remembered.
const MAX_REMEMBERED: usize = 1024;

/// A file changed more recently than this is hashed anew each time: its timestamps could not tell a second change.
const SETTLED: Duration = Duration::seconds(2);

/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// One state of one file. The change time cannot be set by its owner, so a changed file always has another key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    fn settled_at(&self, now: OffsetDateTime) -> bool {
        OffsetDateTime::from_unix_timestamp(self.changed.0).is_ok_and(|changed| now - changed > SETTLED)
    }
}

/// A digest under construction or done; the lock lets one caller hash while the others wait for its result.
type Slot = Arc<Mutex<Option<[u8; 32]>>>;

/// Remembers digests by file state.
#[derive(Debug, Default)]
pub(super) struct Digests {
    slots: Mutex<HashMap<FileState, Slot>>,
}

/// Size of an open file in bytes.
pub(super) fn size(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.size())
}

impl Digests {
    /// SHA-256 of the whole file. Blocks; call it from the blocking pool.
    pub(super) fn sha256(&self, file: &mut File, now: OffsetDateTime) -> io::Result<[u8; 32]> {
        let state = FileState::of(file)?;
        if !state.settled_at(now) {
            return hash(file);
        }
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if slots.len() >= MAX_REMEMBERED && !slots.contains_key(&state) {
                slots.clear();
            }
            Arc::clone(slots.entry(state.clone()).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = *slot {
            return Ok(digest);
        }
        let digest = hash(file)?;
        if FileState::of(file)? == state {
            *slot = Some(digest);
        }
        Ok(digest)
    }
}

fn hash(file: &mut File) -> io::Result<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => context.update(&buffer[..read]),
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digest: [u8; 32]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn remembers_settled_files_and_follows_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, b"abc").unwrap();
        let digests = Digests::default();
        let changed = OffsetDateTime::from_unix_timestamp(std::fs::metadata(&path).unwrap().ctime()).unwrap();

        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(digests.sha256(&mut File::open(&path).unwrap(), changed).unwrap()), abc);
        assert_eq!(digests.slots.lock().unwrap().len(), 0, "a file that has just changed is not remembered");

        let later = changed + Duration::seconds(10);
        assert_eq!(hex(digests.sha256(&mut File::open(&path).unwrap(), later).unwrap()), abc);
        assert_eq!(hex(digests.sha256(&mut File::open(&path).unwrap(), later).unwrap()), abc);
        assert_eq!(digests.slots.lock().unwrap().len(), 1);

        std::fs::write(&path, b"abd").unwrap();
        let much_later = later + Duration::seconds(3600);
        assert_ne!(hex(digests.sha256(&mut File::open(&path).unwrap(), much_later).unwrap()), abc);
    }
}
