//! `entente issuer upstreamauthority taint|revoke`.

use federation_specs::proto::server::localauthority::{
    RevokeX509UpstreamAuthorityRequest, RevokeX509UpstreamAuthorityResponse, TaintX509UpstreamAuthorityRequest,
    TaintX509UpstreamAuthorityResponse,
};

use crate::connect::{self, IssuerSocket};
use crate::failure::Failure;
use crate::output::{self, OutputArguments};

const PACKAGE: &str = "spire.api.server.localauthority.v1";

/// The commands of `entente issuer upstreamauthority`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Mark an upstream authority as compromised
    Taint(Arguments),
    /// Remove a tainted upstream authority from the bundle
    Revoke(Arguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: IssuerSocket,
    /// Subject key ID of the upstream authority, hexadecimal
    #[arg(long = "subjectKeyID", value_name = "ID")]
    subject_key_id: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

impl Arguments {
    fn subject_key_id(&self) -> Result<String, Failure> {
        let id = self.subject_key_id.clone().filter(|id| !id.is_empty());
        id.ok_or_else(|| Failure::new("the Subject Key ID of the X.509 upstream authority is required"))
    }
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Taint(arguments) => {
            let request = TaintX509UpstreamAuthorityRequest { subject_key_id: arguments.subject_key_id()? };
            let api = arguments.socket.connect().await?;
            let answer = connect::local_authority(&api).taint_x509_upstream_authority(request).await;
            let answer =
                answer.map_err(|status| Failure::from(status).context("could not taint X.509 upstream authority"))?;
            let name = format!("{PACKAGE}.TaintX509UpstreamAuthorityResponse");
            let pretty = |answer: &TaintX509UpstreamAuthorityResponse| {
                block("Tainted", &answer.upstream_authority_subject_key_id)
            };
            output::print(arguments.output.format, &name, answer.get_ref(), pretty)
        }
        Command::Revoke(arguments) => {
            let request = RevokeX509UpstreamAuthorityRequest { subject_key_id: arguments.subject_key_id()? };
            let api = arguments.socket.connect().await?;
            let answer = connect::local_authority(&api).revoke_x509_upstream_authority(request).await;
            let answer =
                answer.map_err(|status| Failure::from(status).context("could not revoke X.509 upstream authority"))?;
            let name = format!("{PACKAGE}.RevokeX509UpstreamAuthorityResponse");
            let pretty = |answer: &RevokeX509UpstreamAuthorityResponse| {
                block("Revoked", &answer.upstream_authority_subject_key_id)
            };
            output::print(arguments.output.format, &name, answer.get_ref(), pretty)
        }
    }
}

fn block(done: &str, subject_key_id: &str) -> String {
    format!("{done} X.509 upstream authority:\n  Subject Key ID: {subject_key_id}\n")
}
