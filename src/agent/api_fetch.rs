//! `entente agent api fetch [x509]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use federation_specs::proto::workload::{X509svidRequest, X509svidResponse};
use service_kit::clock::{Clock as _, SystemClock};
use tokio::time::Instant;

use super::api_fetch_jwt;
use super::timeout::{Timeout, limited};
use super::x509_context::X509Context;
use crate::connect::{self, AgentSocket, Api};
use crate::failure::Failure;
use crate::output::{self, Format, OutputArguments};

const RESPONSE: &str = "X509SVIDResponse";
/// How long the Workload API may take unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    x509: X509,
    #[command(subcommand)]
    kind: Option<Kind>,
}

#[derive(Debug, clap::Subcommand)]
enum Kind {
    /// Fetch X509-SVIDs, verify them and print or write them
    X509(X509),
    /// Fetch JWT-SVIDs and the keys they verify with
    Jwt(api_fetch_jwt::Arguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct X509 {
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    timeout: Timeout,
    /// Print nothing
    #[arg(long)]
    silent: bool,
    /// Write svid.N.pem, svid.N.key, bundle.N.pem and federated_bundle.N.M.pem to this folder
    #[arg(long, value_name = "DIR")]
    write: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.kind {
        None => x509(&arguments.x509).await,
        Some(Kind::X509(arguments)) => x509(&arguments).await,
        Some(Kind::Jwt(arguments)) => api_fetch_jwt::run(&arguments).await,
    }
}

async fn x509(arguments: &X509) -> Result<(), Failure> {
    let (response, took) = arguments
        .timeout
        .limit(async {
            let api = arguments.socket.connect().await?;
            let asked = Instant::now();
            Ok((first(&api).await?, asked.elapsed()))
        })
        .await?;
    let context = X509Context::verify(&response, SystemClock.now())?;
    let text = match arguments.output.format {
        Format::Pretty => context.pretty(took, true),
        Format::Json => output::json_line(RESPONSE, &response)?,
    };
    if !arguments.silent {
        output::to_stdout(&text)?;
    }
    if let Some(folder) = arguments.write.as_deref().filter(|folder| !folder.is_empty()) {
        let lines = context.write(Path::new(folder))?;
        if !arguments.silent && arguments.output.format == Format::Pretty {
            output::to_stdout(&lines)?;
        }
    }
    Ok(())
}

/// The first answer of the stream.
async fn first(api: &Api) -> Result<X509svidResponse, Failure> {
    let mut updates = connect::workload(api).fetch_x509svid(X509svidRequest {}).await?.into_inner();
    let first = updates.message().await?;
    first.ok_or_else(|| Failure::new("the Workload API ended the stream without an answer"))
}

/// The SPIFFE IDs the agent at `socket` gives this process, verified.
pub(crate) async fn identities(socket: PathBuf) -> anyhow::Result<Vec<String>> {
    let fetch = async {
        let api = AgentSocket::at(&socket).connect().await?;
        X509Context::verify(&first(&api).await?, SystemClock.now())
    };
    let context = limited(DEFAULT_TIMEOUT, fetch).await.map_err(|failure| anyhow::anyhow!(failure.into_text()))?;
    Ok(context.ids())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn json_is_spires() {
        let transcripts = Transcripts::of("agent-fetch-x509");
        let command = "api fetch x509 -output json";
        // The captured line lost its private keys.
        let line = transcripts.stdout(command).replace("[private key cut]", "AA==");
        let response: X509svidResponse = Transcripts::decode(RESPONSE, &line);
        assert_eq!(output::json_line(RESPONSE, &response).unwrap(), line);
    }

    #[tokio::test]
    async fn an_answer_that_takes_too_long_ends_the_command() {
        let failure =
            limited(Duration::from_millis(1), std::future::pending::<Result<(), Failure>>()).await.unwrap_err();
        assert_eq!(failure.text(), "rpc error: code = DeadlineExceeded desc = context deadline exceeded");
    }
}
