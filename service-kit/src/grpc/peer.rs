//! Who is at the other end of a connection. Both types are found in the extensions of every request.

use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use federation_specs::x509_svid::VerifiedX509Svid;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::net::UnixStream;

/// The peer of a TLS connection.
#[derive(Debug, Clone)]
pub struct TcpPeer {
    /// Where it connected from.
    pub remote: SocketAddr,
    /// The identity it proved; `None` if it presented no certificate.
    pub svid: Option<Arc<VerifiedX509Svid>>,
}

/// The peer of a Unix socket connection, as the kernel saw it when it connected.
#[derive(Debug, Clone)]
pub struct UnixPeer {
    /// Process id; `None` when the peer lives in a PID namespace this process cannot see.
    pub pid: Option<i32>,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Start time of the process in clock ticks since boot, read when the connection was accepted.
    pub start_time: Option<u64>,
    /// A handle on the process itself, which no other process can take over, opened when the connection was accepted.
    pub pidfd: Option<Arc<OwnedFd>>,
}

impl UnixPeer {
    /// Captures the peer of an accepted connection.
    ///
    /// # Errors
    /// When the kernel does not tell the credentials.
    pub(crate) fn capture(stream: &UnixStream) -> std::io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().filter(|pid| *pid > 0);
        let pidfd = pid.and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let start_time = pid.and_then(process_start_time);
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let peer = Self { pid, uid, gid, start_time, pidfd: pidfd.map(Arc::new) };
        // The kernel noted the process when it connected. Should it have ended before the connection was accepted, its
        // number may belong to another by now; one of another user is not taken for it.
        let is_same_user = pid.and_then(effective_user).is_none_or(|user| user == uid);
        Ok(if is_same_user { peer } else { Self { pidfd: None, start_time: None, ..peer } })
    }

    /// Whether the process that was captured still runs, and `pid` still means that process. To be asked after reading
    /// anything about the process by its id: what was read belongs to the peer only if it is still alive then.
    pub fn is_alive(&self) -> bool {
        let Some(pid) = self.pid else { return false };
        if let Some(pidfd) = &self.pidfd {
            // A pidfd becomes readable when its process ends.
            let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
            return matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
                && self.start_time == process_start_time(pid);
        }
        self.start_time.is_some() && self.start_time == process_start_time(pid)
    }
}

/// Effective user of a process; `None` if it cannot be told.
fn effective_user(pid: i32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    // Real, effective, saved and file system user.
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Start time of a process in clock ticks since boot, from `/proc/<pid>/stat`; `None` if there is no such process.
pub fn process_start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The second field is the command in parentheses and may itself hold spaces and parentheses. The start time is
    // field 22, the 20th after the command.
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn captures_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = UnixPeer::capture(&one).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        assert!(peer.start_time.is_some() && peer.pidfd.is_some());
        assert!(peer.is_alive());
    }

    #[test]
    fn tells_the_effective_user() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(effective_user(own), Some(rustix::process::geteuid().as_raw()));
        assert_eq!(effective_user(-1), None);
    }

    #[test]
    fn notices_the_end_of_a_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        let peer = UnixPeer {
            pid: Some(pid),
            uid: 0,
            gid: 0,
            start_time: process_start_time(pid),
            pidfd: Some(Arc::new(pidfd)),
        };
        let without_pidfd = UnixPeer { pidfd: None, ..peer.clone() };
        assert!(peer.is_alive() && without_pidfd.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!peer.is_alive() && !without_pidfd.is_alive());
    }

    #[test]
    fn a_peer_of_another_namespace_is_never_alive() {
        let peer = UnixPeer { pid: None, uid: 0, gid: 0, start_time: None, pidfd: None };
        assert!(!peer.is_alive());
        assert_eq!(process_start_time(-1), None);
    }
}
