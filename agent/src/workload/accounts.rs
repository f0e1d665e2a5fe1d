//! Names of users and groups from the system's text files (`/etc/passwd`, `/etc/group`).
//!
//! Network directories (LDAP, SSSD) are not asked: a user known only there gets no `user` selector, its `uid` selector
//! always exists.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Largest account file read.
const MAX_ACCOUNT_FILE_BYTES: u64 = 16 << 20;

/// One account file read whole.
#[derive(Debug)]
pub(super) struct Accounts(String);

impl Accounts {
    /// Reads a file in the format of passwd(5) or group(5).
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_ACCOUNT_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Nothing known.
    pub(super) fn empty() -> Self {
        Self(String::new())
    }

    /// Name with the number `id`, which is the third field in both formats. The first match counts, as for libc.
    pub(super) fn name_of(&self, id: u32) -> Option<&str> {
        self.0.lines().find_map(|line| {
            if line.starts_with('#') {
                return None;
            }
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let number: u32 = fields.nth(1)?.trim().parse().ok()?;
            (number == id).then_some(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_names_and_skips_what_is_malformed() {
        let accounts = Accounts(
            "#root:x:5:0\n\nbroken\n:x:7:\nroot:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\nweb:*:33:web,app\n"
                .into(),
        );
        assert_eq!(accounts.name_of(0), Some("root"));
        assert_eq!(accounts.name_of(33), Some("web"));
        assert_eq!(accounts.name_of(5), None);
        assert_eq!(accounts.name_of(7), None);
        assert_eq!(Accounts::empty().name_of(0), None);
    }
}
