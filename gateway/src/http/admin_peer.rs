//! Who is at the other end of the admin socket, as the kernel says.

use std::path::Path;

use axum::extract::connect_info::Connected;
use tokio::{io::AsyncReadExt as _, net::UnixStream};

use crate::{admin_socket::AdminSocket, audit::Actor};

/// Where login names are looked up.
const PASSWD: &str = "/etc/passwd";

/// Most bytes of it that are read.
const MAX_PASSWD_BYTES: u64 = 1024 * 1024;

/// The process that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Peer {
    /// The process at the other end of `stream`, as it was when it connected.
    pub(crate) fn of(stream: &UnixStream) -> Self {
        match stream.peer_cred() {
            Ok(credentials) => Self { uid: Some(credentials.uid()), pid: credentials.pid() },
            Err(_) => Self { uid: None, pid: None },
        }
    }

    /// The user for the audit log.
    pub(crate) async fn actor(self) -> Actor {
        // A kernel that does not say who it is gives the overflow user.
        let uid = self.uid.unwrap_or(65_534);
        Actor::User { uid, name: login_name(Path::new(PASSWD), uid).await, pid: self.pid }
    }
}

impl Connected<axum::serve::IncomingStream<'_, AdminSocket>> for Peer {
    fn connect_info(stream: axum::serve::IncomingStream<'_, AdminSocket>) -> Self {
        *stream.remote_addr()
    }
}

async fn login_name(passwd: &Path, uid: u32) -> Option<String> {
    let mut text = Vec::new();
    let file = tokio::fs::File::open(passwd).await.ok()?;
    file.take(MAX_PASSWD_BYTES).read_to_end(&mut text).await.ok()?;
    let text = String::from_utf8_lossy(&text);
    let name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id.parse() == Ok(uid)).then(|| name.chars().filter(|letter| !letter.is_control()).take(64).collect())
    });
    name.filter(|name: &String| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn users_are_named_where_the_machine_knows_them() {
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        std::fs::write(&passwd, "root:x:0:0::/root:/bin/sh\nada:x:1000:1000:Ada:/home/ada:/bin/sh\nbroken\n").unwrap();
        assert_eq!(login_name(&passwd, 1000).await.as_deref(), Some("ada"));
        assert_eq!(login_name(&passwd, 1001).await, None);
        assert_eq!(login_name(Path::new("/nowhere"), 0).await, None);
        let (one, _other) = UnixStream::pair().unwrap();
        let Actor::User { uid, pid, .. } = Peer::of(&one).actor().await else { panic!("a user is expected") };
        assert_eq!(pid, Some(std::process::id().try_into().unwrap()));
        assert_eq!(Some(uid), one.peer_cred().ok().map(|credentials| credentials.uid()));
    }
}
