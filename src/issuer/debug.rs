//! `entente issuer debug getinfo`.

use std::time::Duration;

use federation_specs::proto::server::debug::{GetInfoRequest, GetInfoResponse};

use crate::connect::{self, IssuerSocket};
use crate::failure::Failure;
use crate::identifiers::id_text;
use crate::notation;
use crate::output::{self, OutputArguments};

const RESPONSE: &str = "spire.api.server.debug.v1.GetInfoResponse";

/// The commands of `entente issuer debug`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Uptime, counts and the issuer's own certificate chain
    #[command(name = "getinfo")]
    GetInfo(GetInfo),
}

#[derive(Debug, clap::Args)]
pub(crate) struct GetInfo {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    output: OutputArguments,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let Command::GetInfo(arguments) = command;
    let api = arguments.socket.connect().await?;
    let info = connect::server_debug(&api).get_info(GetInfoRequest {}).await?.into_inner();
    output::print(arguments.output.format, RESPONSE, &info, pretty)
}

fn pretty(info: &GetInfoResponse) -> String {
    let uptime = notation::duration(Duration::from_secs(info.uptime.unsigned_abs().into()));
    let mut text = format!(
        "Server Debug Info:\n  Uptime:                  {uptime}\n  Registered Agents:       {}\n  \
         Registration Entries:    {}\n  Federated Bundles:       {}\n  SVID Chain:\n",
        info.agents_count, info.entries_count, info.federated_bundles_count
    );
    for (index, cert) in info.svid_chain.iter().enumerate() {
        text.push_str(&chain_link(index, &id_text(cert.id.as_ref()), &cert.subject, cert.expires_at));
    }
    text
}

/// One certificate of an SVID chain; the agent's command prints the same.
pub(crate) fn chain_link(index: usize, id: &str, subject: &str, expires_at: i64) -> String {
    let expires_at = notation::rfc3339_of(expires_at);
    format!("    [{index}] SPIFFE ID:  {id}\n        Subject:    {subject}\n        Expires At: {expires_at}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn both_formats_are_spires() {
        let transcripts = Transcripts::of("debug");
        let info: GetInfoResponse = transcripts.message(RESPONSE, "debug getinfo -output json");
        assert_eq!(output::json_line(RESPONSE, &info).unwrap(), transcripts.stdout("debug getinfo -output json"));
        assert_eq!(pretty(&GetInfoResponse { uptime: 181, ..info }), transcripts.stdout("debug getinfo"));
    }
}
