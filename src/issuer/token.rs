//! `entente issuer token generate`.

use federation_specs::proto::server::agent::CreateJoinTokenRequest;
use federation_specs::proto::types::JoinToken;

use crate::connect::{self, IssuerSocket};
use crate::failure::Failure;
use crate::identifiers;
use crate::output::{self, OutputArguments};

/// The commands of `entente issuer token`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a join token, which admits one agent once
    Generate(Generate),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    socket: IssuerSocket,
    /// A further SPIFFE ID for the agent that joins with the token
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// How long the token can be used, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    ttl: i32,
    #[command(flatten)]
    output: OutputArguments,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Generate(arguments) = command;
    let id = arguments.spiffe_id.as_deref().filter(|id| !id.is_empty());
    let agent_id = id.map(identifiers::spiffe_id).transpose()?;
    let named = agent_id.is_some();
    let api = arguments.socket.connect().await?;
    let request = CreateJoinTokenRequest { ttl: arguments.ttl, token: String::new(), agent_id };
    let token = connect::agents(&api).create_join_token(request).await?.into_inner();
    output::print(arguments.output.format, "spire.api.types.JoinToken", &token, |token| pretty(token, named))
}

fn pretty(token: &JoinToken, named: bool) -> String {
    let warning = if named { "" } else { "Warning: Missing SPIFFE ID.\n" };
    format!("Token: {}\n{warning}", token.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_without_spiffe_id_is_warned_about() {
        let token = JoinToken { value: "9610a268".to_owned(), expires_at: 0 };
        assert_eq!(pretty(&token, false), "Token: 9610a268\nWarning: Missing SPIFFE ID.\n");
        assert_eq!(pretty(&token, true), "Token: 9610a268\n");
    }
}
