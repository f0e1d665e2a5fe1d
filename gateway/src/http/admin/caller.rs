//! Who calls the admin API, and what they may do: a process of this machine at the Unix socket, or somebody with an
//! X509-SVID at the admin listener.

use std::{path::Path, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, FromRequestParts, Request},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
};
use federation_specs::id::SpiffeId;
use http::request::Parts;
use tokio::{io::AsyncReadExt as _, net::UnixStream};

use crate::{api::Role, audit::Actor, http::problem::AdminError, listeners::peer::PeerIdentity, settings::Roles};

/// Where login names are looked up.
const PASSWD: &str = "/etc/passwd";

/// Most bytes of it that are read.
const MAX_PASSWD_BYTES: u64 = 1024 * 1024;

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A process of this machine, which the permissions of the socket let in.
    Local {
        /// Its user, if the kernel says.
        uid: Option<u32>,
        /// Its ID, if the kernel says.
        pid: Option<i32>,
    },
    /// Somebody at the admin listener.
    Remote {
        /// The SPIFFE ID, proven for this request.
        id: SpiffeId,
        /// The role the configuration gives it.
        role: Option<Role>,
    },
}

impl Caller {
    /// The process at the other end of `stream`, as it was when it connected.
    pub(crate) fn local(stream: &UnixStream) -> Self {
        match stream.peer_cred() {
            Ok(credentials) => Self::Local { uid: Some(credentials.uid()), pid: credentials.pid() },
            Err(_) => Self::Local { uid: None, pid: None },
        }
    }

    /// What the caller may do; `None` for nothing.
    fn role(&self) -> Option<Role> {
        match self {
            Self::Local { .. } => Some(Role::Admin),
            Self::Remote { role, .. } => *role,
        }
    }

    /// The caller for the audit log.
    pub(crate) async fn actor(&self) -> Actor {
        match self {
            Self::Local { uid, pid } => {
                // A kernel that does not say who it is gives the overflow user.
                let uid = uid.unwrap_or(65_534);
                Actor::User { uid, name: login_name(Path::new(PASSWD), uid).await, pid: *pid }
            }
            // Nobody without a role gets as far as to a change.
            Self::Remote { id, role } => {
                Actor::Spiffe { spiffe_id: id.to_string(), role: role.unwrap_or(Role::Viewer) }
            }
        }
    }

    /// The caller as the refusal names it.
    fn name(&self) -> String {
        match self {
            Self::Local { uid: Some(uid), .. } => format!("uid {uid}"),
            Self::Local { uid: None, .. } => "a local process".to_owned(),
            Self::Remote { id, .. } => id.to_string(),
        }
    }
}

/// The API for the admin listener, where an X509-SVID says who calls and `roles` what they may do.
pub(crate) fn remote(router: Router, roles: Roles) -> Router {
    let roles = Arc::new(roles);
    router.layer(from_fn(move |mut request: Request, next: Next| {
        let roles = Arc::clone(&roles);
        async move {
            let identity = request.extensions_mut().remove::<PeerIdentity>();
            match identity {
                Some(PeerIdentity(Ok(id))) => {
                    let role = roles.of(&id);
                    request.extensions_mut().insert(ConnectInfo(Caller::Remote { id, role }));
                }
                Some(PeerIdentity(Err(cause))) => return AdminError::Identity(cause).into_response(),
                None => {}
            }
            next.run(request).await
        }
    }))
}

/// Lets a request through if its caller has at least the role `needed`. Whoever is unknown may do nothing.
pub(super) async fn guard(needed: Role, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<ConnectInfo<Caller>>().map(|ConnectInfo(caller)| caller);
    let role = caller.and_then(Caller::role);
    if role.is_some_and(|role| role >= needed) {
        return next.run(request).await;
    }
    let caller = caller.map_or_else(|| "the caller".to_owned(), Caller::name);
    tracing::warn!(%caller, %needed, path = request.uri().path(), "admin request refused");
    AdminError::RoleNeeded { caller, has: role, needed }.into_response()
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AdminError> {
        match parts.extensions.get::<ConnectInfo<Self>>() {
            Some(ConnectInfo(caller)) => Ok(caller.clone()),
            None => Err(AdminError::RoleNeeded { caller: "the caller".to_owned(), has: None, needed: Role::Viewer }),
        }
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
        let Actor::User { uid, pid, .. } = Caller::local(&one).actor().await else { panic!("a user is expected") };
        assert_eq!(pid, Some(std::process::id().try_into().unwrap()));
        assert_eq!(Some(uid), one.peer_cred().ok().map(|credentials| credentials.uid()));
    }
}
