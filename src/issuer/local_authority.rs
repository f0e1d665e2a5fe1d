//! `entente issuer localauthority x509|jwt show|prepare|activate|taint|revoke`.

use federation_specs::proto::server::localauthority as api;

use crate::connect::{self, IssuerSocket};
use crate::failure::Failure;
use crate::notation;
use crate::output::{self, OutputArguments};

const PACKAGE: &str = "spire.api.server.localauthority.v1";

/// The commands of `entente issuer localauthority`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// The authorities that sign X509-SVIDs
    #[command(subcommand)]
    X509(Verb),
    /// The authorities that sign JWT-SVIDs
    #[command(subcommand)]
    Jwt(Verb),
}

/// What is done with an authority.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// The active, the prepared and the old authority
    Show(Plain),
    /// Make the authority that will be used next, and publish it
    Prepare(Plain),
    /// Sign with the prepared authority from now on
    Activate(Named),
    /// Mark an old authority as compromised, so that nothing signed by it stays in use
    Taint(Named),
    /// Remove a tainted old authority from the bundle
    Revoke(Named),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    #[command(flatten)]
    socket: IssuerSocket,
    /// The authority, as `show` prints it
    #[arg(long = "authorityID", value_name = "ID")]
    authority_id: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

impl Named {
    fn authority_id(&self) -> Result<String, Failure> {
        let id = self.authority_id.clone().filter(|id| !id.is_empty());
        id.ok_or_else(|| Failure::new("an authority ID is required"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    X509,
    Jwt,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        }
    }
}

/// One call: ask, name the failure as SPIRE does, print the answer.
macro_rules! call {
    ($arguments:expr, $method:ident, $request:expr, $message:literal, $doing:expr, $pretty:expr) => {{
        let request = $request;
        let api = $arguments.socket.connect().await?;
        let answer = connect::local_authority(&api).$method(request).await;
        let answer = answer.map_err(|status| Failure::from(status).context($doing))?;
        let name = format!("{PACKAGE}.{}", $message);
        output::print($arguments.output.format, &name, answer.get_ref(), $pretty)
    }};
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::X509(verb) => x509(verb).await,
        Command::Jwt(verb) => jwt(verb).await,
    }
}

async fn x509(verb: Verb) -> Result<(), Failure> {
    const KIND: Kind = Kind::X509;
    match verb {
        Verb::Show(arguments) => call!(
            arguments,
            get_x509_authority_state,
            api::GetX509AuthorityStateRequest {},
            "GetX509AuthorityStateResponse",
            "could not get X.509 authorities",
            |state| states(KIND, state.active.as_ref(), state.prepared.as_ref(), state.old.as_ref())
        ),
        Verb::Prepare(arguments) => call!(
            arguments,
            prepare_x509_authority,
            api::PrepareX509AuthorityRequest {},
            "PrepareX509AuthorityResponse",
            "could not prepare X.509 authority",
            |answer| done(KIND, "Prepared", answer.prepared_authority.as_ref())
        ),
        Verb::Activate(arguments) => call!(
            arguments,
            activate_x509_authority,
            api::ActivateX509AuthorityRequest { authority_id: arguments.authority_id()? },
            "ActivateX509AuthorityResponse",
            "could not activate X.509 authority",
            |answer| done(KIND, "Activated", answer.activated_authority.as_ref())
        ),
        Verb::Taint(arguments) => call!(
            arguments,
            taint_x509_authority,
            api::TaintX509AuthorityRequest { authority_id: arguments.authority_id()? },
            "TaintX509AuthorityResponse",
            "could not taint X.509 authority",
            |answer| done(KIND, "Tainted", answer.tainted_authority.as_ref())
        ),
        Verb::Revoke(arguments) => call!(
            arguments,
            revoke_x509_authority,
            api::RevokeX509AuthorityRequest { authority_id: arguments.authority_id()? },
            "RevokeX509AuthorityResponse",
            "could not revoke X.509 authority",
            |answer| done(KIND, "Revoked", answer.revoked_authority.as_ref())
        ),
    }
}

async fn jwt(verb: Verb) -> Result<(), Failure> {
    const KIND: Kind = Kind::Jwt;
    match verb {
        Verb::Show(arguments) => call!(
            arguments,
            get_jwt_authority_state,
            api::GetJwtAuthorityStateRequest {},
            "GetJWTAuthorityStateResponse",
            "could not get JWT authorities",
            |state| states(KIND, state.active.as_ref(), state.prepared.as_ref(), state.old.as_ref())
        ),
        Verb::Prepare(arguments) => call!(
            arguments,
            prepare_jwt_authority,
            api::PrepareJwtAuthorityRequest {},
            "PrepareJWTAuthorityResponse",
            "could not prepare JWT authority",
            |answer| done(KIND, "Prepared", answer.prepared_authority.as_ref())
        ),
        Verb::Activate(arguments) => call!(
            arguments,
            activate_jwt_authority,
            api::ActivateJwtAuthorityRequest { authority_id: arguments.authority_id()? },
            "ActivateJWTAuthorityResponse",
            "could not activate JWT authority",
            |answer| done(KIND, "Activated", answer.activated_authority.as_ref())
        ),
        Verb::Taint(arguments) => call!(
            arguments,
            taint_jwt_authority,
            api::TaintJwtAuthorityRequest { authority_id: arguments.authority_id()? },
            "TaintJWTAuthorityResponse",
            "could not taint JWT authority",
            |answer| done(KIND, "Tainted", answer.tainted_authority.as_ref())
        ),
        Verb::Revoke(arguments) => call!(
            arguments,
            revoke_jwt_authority,
            api::RevokeJwtAuthorityRequest { authority_id: arguments.authority_id()? },
            "RevokeJWTAuthorityResponse",
            "could not revoke JWT authority",
            |answer| done(KIND, "Revoked", answer.revoked_authority.as_ref())
        ),
    }
}

fn states(
    kind: Kind,
    active: Option<&api::AuthorityState>,
    prepared: Option<&api::AuthorityState>,
    old: Option<&api::AuthorityState>,
) -> String {
    let label = kind.label();
    let blocks = [("Active", active), ("Prepared", prepared), ("Old", old)].map(|(slot, state)| match state {
        Some(state) => format!("{slot} {label} authority:\n{}", state_lines(kind, state)),
        None => format!("{slot} {label} authority:\n  No {} {label} authority found\n", slot.to_ascii_lowercase()),
    });
    blocks.join("\n")
}

fn done(kind: Kind, verb: &str, state: Option<&api::AuthorityState>) -> String {
    let label = kind.label();
    let state = state.map_or_else(
        || format!("  No {} {label} authority found\n", verb.to_ascii_lowercase()),
        |state| state_lines(kind, state),
    );
    format!("{verb} {label} authority:\n{state}")
}

fn state_lines(kind: Kind, state: &api::AuthorityState) -> String {
    let mut text =
        format!("  Authority ID: {}\n  Expires at: {}\n", state.authority_id, notation::time_of(state.expires_at));
    if kind == Kind::X509 {
        match state.upstream_authority_subject_key_id.as_str() {
            "" => text.push_str("  Upstream authority ID: No upstream authority\n"),
            id => text.push_str(&format!("  Upstream authority Subject Key ID: {id}\n")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn both_formats_are_spires() {
        let transcripts = Transcripts::of("localauthority");
        for (pretty, json) in transcripts.pairs("localauthority x509 show") {
            let name = format!("{PACKAGE}.GetX509AuthorityStateResponse");
            let state: api::GetX509AuthorityStateResponse = Transcripts::decode(&name, &json);
            assert_eq!(output::json_line(&name, &state).unwrap(), json);
            assert_eq!(states(Kind::X509, state.active.as_ref(), state.prepared.as_ref(), state.old.as_ref()), pretty);
        }
        for (pretty, json) in transcripts.pairs("localauthority jwt show") {
            let name = format!("{PACKAGE}.GetJWTAuthorityStateResponse");
            let state: api::GetJwtAuthorityStateResponse = Transcripts::decode(&name, &json);
            assert_eq!(output::json_line(&name, &state).unwrap(), json);
            assert_eq!(states(Kind::Jwt, state.active.as_ref(), state.prepared.as_ref(), state.old.as_ref()), pretty);
        }
    }

    #[test]
    fn an_upstream_authority_is_named() {
        let state = api::AuthorityState {
            authority_id: "faef".to_owned(),
            expires_at: 0,
            upstream_authority_subject_key_id: "e220".to_owned(),
        };
        assert_eq!(
            done(Kind::X509, "Activated", Some(&state)),
            "Activated X.509 authority:\n  Authority ID: faef\n  Expires at: 1970-01-01 00:00:00 +0000 UTC\n  \
             Upstream authority Subject Key ID: e220\n"
        );
    }
}
