//! `entente agent api validate jwt`.

use federation_specs::proto::workload::{ValidateJwtsvidRequest, ValidateJwtsvidResponse};
use tonic::Code;

use super::timeout::Timeout;
use crate::connect::{self, AgentSocket};
use crate::failure::Failure;
use crate::output::{self, Format, OutputArguments};

const RESPONSE: &str = "ValidateJWTSVIDResponse";

/// The commands of `entente agent api validate`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Have a JWT-SVID checked
    Jwt(Arguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    timeout: Timeout,
    /// Who the token must be for
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// The JWT-SVID
    #[arg(long, value_name = "TOKEN")]
    svid: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Jwt(arguments) = command;
    let required = |value: &Option<String>, text: &str| {
        value.clone().filter(|value| !value.is_empty()).ok_or_else(|| Failure::new(text))
    };
    let audience = required(&arguments.audience, "audience must be specified")?;
    let svid = required(&arguments.svid, "svid must be specified")?;
    let response = arguments
        .timeout
        .limit(async {
            let api = arguments.socket.connect().await?;
            let answer = connect::workload(&api).validate_jwtsvid(ValidateJwtsvidRequest { audience, svid }).await;
            answer.map_err(|status| match status.code() {
                Code::InvalidArgument => Failure::new(format!("SVID is not valid: {}", status.message())),
                _ => status.into(),
            })
        })
        .await?
        .into_inner();
    match arguments.output.format {
        Format::Json => output::to_stdout(&output::json_line(RESPONSE, &response)?),
        Format::Pretty => output::to_stdout(&pretty(&response)?),
    }
}

fn pretty(response: &ValidateJwtsvidResponse) -> Result<String, Failure> {
    let claims = match &response.claims {
        Some(claims) => output::value_text(&output::message_value("google.protobuf.Struct", claims)?),
        None => "{}".to_owned(),
    };
    Ok(format!("SVID is valid.\nSPIFFE ID : {}\nClaims    : {claims}\n", response.spiffe_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn both_formats_are_spires() {
        let transcripts = Transcripts::of("agent-validate-jwt");
        let all = transcripts.starting("api validate jwt -audience aud1 -svid eyJ");
        let (text, json) = (&all[0].stdout, &all[1].stdout);
        let response: ValidateJwtsvidResponse = Transcripts::decode(RESPONSE, json);
        assert_eq!(&output::json_line(RESPONSE, &response).unwrap(), json);
        assert_eq!(&pretty(&response).unwrap(), text);
    }
}
