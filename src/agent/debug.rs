//! `entente agent debug getinfo`.

use std::time::Duration;

use federation_specs::proto::agent::debug::{GetInfoRequest, GetInfoResponse};

use crate::connect::{self, AgentAdminSocket};
use crate::failure::Failure;
use crate::identifiers::id_text;
use crate::issuer;
use crate::notation;
use crate::output::{self, OutputArguments};

const RESPONSE: &str = "spire.agent.debug.v1.GetInfoResponse";

/// The commands of `entente agent debug`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Uptime, last sync, cache sizes and the agent's own certificate chain
    #[command(name = "getinfo")]
    GetInfo(GetInfo),
}

#[derive(Debug, clap::Args)]
pub(crate) struct GetInfo {
    #[command(flatten)]
    socket: AgentAdminSocket,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let Command::GetInfo(arguments) = command;
    let api = arguments.socket.connect().await?;
    let info = connect::agent_debug(&api).get_info(GetInfoRequest {}).await?.into_inner();
    output::print(arguments.output.format, RESPONSE, &info, pretty)
}

fn pretty(info: &GetInfoResponse) -> String {
    let uptime = notation::duration(Duration::from_secs(info.uptime.unsigned_abs().into()));
    let last_sync = match info.last_sync_success {
        0 => "(never)".to_owned(),
        at => notation::rfc3339_of(at),
    };
    let mut text = format!(
        "Agent Debug Info:\n  Uptime:                          {uptime}\n  Last Sync Success:               {last_sync}\n  \
         Cached X.509 SVIDs:              {}\n  Cached JWT SVIDs:                {}\n  \
         Cached SVID Store X.509 SVIDs:   {}\n  SVID Chain:\n",
        info.cached_x509_svids_count, info.cached_jwt_svids_count, info.cached_svidstore_x509_svids_count
    );
    for (index, cert) in info.svid_chain.iter().enumerate() {
        let id = id_text(cert.id.as_ref());
        text.push_str(&issuer::debug::chain_link(index, &id, &cert.subject, cert.expires_at));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn both_formats_are_spires() {
        let command = "debug getinfo -socketPath /run/example/agent1/private/admin.sock";
        for (text, json) in Transcripts::of("agent-debug").pairs(command) {
            let info: GetInfoResponse = Transcripts::decode(RESPONSE, &json);
            assert_eq!(output::json_line(RESPONSE, &info).unwrap(), json);
            assert_eq!(pretty(&info), text);
        }
        assert!(pretty(&GetInfoResponse::default()).contains("Last Sync Success:               (never)\n"));
    }
}
