//! Unix sockets: bound so that a running process is never displaced, a dead one's leftover never in the way.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;

/// Connections the kernel holds for us until they are accepted (it caps this at `net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Why a Unix socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// A process answers there.
    #[error("socket {} is in use by a running process; stop it or choose another socket_path", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket lies there.
    #[error("{} exists and is not a socket; move it away or choose another socket_path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Too long for the kernel.
    #[error("socket path {} is too long for the operating system (at most 107 bytes); choose a shorter socket_path", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The folder cannot be made.
    #[error("folder {} of the socket cannot be created: {source}; create it for this user or choose another socket_path", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Binding failed otherwise.
    #[error("socket {} cannot be bound: {source}; make its folder writable for this user or choose another socket_path", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound Unix socket. Its file is removed when this is dropped, if it is still the same file.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

/// Tells whether callers still find a socket under its path.
#[derive(Debug, Clone)]
pub struct SocketPlace {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl SocketPlace {
    /// Where it was bound.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file under the path is still the socket.
    pub fn is_taken(&self) -> bool {
        self.inode.is_some() && inode(&self.path) == self.inode
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have taken the path over since; its socket is left alone.
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl UnixSocket {
    /// Where it is bound.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// For looking after its file while it is served.
    pub fn place(&self) -> SocketPlace {
        SocketPlace { path: self.file.path.clone(), inode: self.file.inode }
    }

    /// The next connection, for protocols other than gRPC.
    ///
    /// # Errors
    /// When the kernel hands out none.
    pub async fn accept(&self) -> io::Result<tokio::net::UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Binds a listening socket at `path` with the permission bits `socket_mode`, making its folder with `dir_mode` if it
/// is missing. The leftover of a dead process is replaced.
///
/// # Errors
/// [`SocketError`], in particular when a live process answers on the path. Must be called inside a tokio runtime.
pub fn bind_unix(path: &Path, dir_mode: u32, socket_mode: u32) -> Result<UnixSocket, SocketError> {
    let owned = || path.to_path_buf();
    let bind_error = |source: io::Error| SocketError::Bind { path: path.to_path_buf(), source };
    let address = SocketAddrUnix::new(path).map_err(|_| SocketError::TooLong { path: owned() })?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        create_folder(folder, dir_mode).map_err(|source| SocketError::Folder { path: folder.into(), source })?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NotASocket { path: owned() }),
        Ok(_) if answers(&address).map_err(bind_error)? => return Err(SocketError::InUse { path: owned() }),
        Ok(_) => fs::remove_file(path).map_err(bind_error)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(bind_error(error)),
    }
    let socket = new_socket().map_err(|error| bind_error(error.into()))?;
    rustix::net::bind(&socket, &address).map_err(|error| bind_error(error.into()))?;
    let file = SocketFile { path: owned(), inode: inode(path) };
    // Nobody can connect before `listen`, so nobody gets past the mode.
    fs::set_permissions(path, Permissions::from_mode(socket_mode)).map_err(bind_error)?;
    rustix::net::listen(&socket, BACKLOG).map_err(|error| bind_error(error.into()))?;
    let listener = UnixListener::from_std(socket.into()).map_err(bind_error)?;
    Ok(UnixSocket { listener, file })
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Whether a process listens on the socket. One too busy to take a connection does.
fn answers(address: &SocketAddrUnix) -> io::Result<bool> {
    match rustix::net::connect(&new_socket()?, address) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes the folder and its parents; only the ones made here get the mode.
fn create_folder(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(folder)?;
    // The umask may have taken bits away from the innermost folder, where they matter.
    fs::set_permissions(folder, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream as StdUnixStream;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn binds_with_modes_and_removes_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("private/api.sock");
        let socket = bind_unix(&path, 0o750, 0o770).unwrap();
        let place = socket.place();
        assert!(place.is_taken());
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o750, 0o770));
        StdUnixStream::connect(socket.path()).unwrap();
        drop(socket);
        assert!(!path.exists() && !place.is_taken());
    }

    #[tokio::test]
    async fn never_displaces_a_running_process_but_replaces_a_dead_ones_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let first = bind_unix(&path, 0o750, 0o770).unwrap();
        let error = bind_unix(&path, 0o750, 0o770).unwrap_err();
        assert!(error.to_string().contains("in use by a running process"), "{error}");
        assert!(path.exists());

        // A process that died without cleaning up: the file stays, nobody listens.
        let UnixSocket { listener, mut file } = first;
        file.inode = None;
        drop((listener, file));
        assert!(path.exists());
        let second = bind_unix(&path, 0o750, 0o770).unwrap();
        StdUnixStream::connect(second.path()).unwrap();
    }

    #[tokio::test]
    async fn a_successors_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let first = bind_unix(&path, 0o750, 0o770).unwrap();
        fs::rename(&path, folder.path().join("moved.sock")).unwrap();
        let _second = bind_unix(&path, 0o750, 0o770).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn bad_paths_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"keep").unwrap();
        assert!(matches!(bind_unix(&file, 0o750, 0o770), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read(&file).unwrap(), b"keep");
        assert!(matches!(bind_unix(&file.join("api.sock"), 0o750, 0o770), Err(SocketError::Folder { .. })));
        let long = folder.path().join("x".repeat(120));
        assert!(matches!(bind_unix(&long, 0o750, 0o770), Err(SocketError::TooLong { .. })));
    }
}
