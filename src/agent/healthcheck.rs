//! `entente agent healthcheck`.

use federation_specs::proto::health::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::connect::{self, AgentSocket};
use crate::failure::{Failure, status_text};
use crate::notation::quote;
use crate::output::to_stdout;
use crate::standard_error::to_stderr;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: AgentSocket,
    /// Taken for SPIRE's sake; the check is the same
    #[arg(long)]
    shallow: bool,
    /// Say what is done
    #[arg(long)]
    verbose: bool,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.verbose {
        to_stdout("Checking agent health...\n")?;
    }
    match check(arguments).await {
        Ok(ServingStatus::Serving) => to_stdout("Agent is healthy.\n"),
        Ok(other) => {
            let status = quote(other.as_str_name());
            Err(Failure::new(format!("Agent is unhealthy: agent returned status {status}")))
        }
        Err(reason) => {
            if arguments.verbose {
                to_stderr(&format!("Failed to check health: {reason}\n"));
            }
            Err(Failure::new("Agent is unhealthy: unable to determine health"))
        }
    }
}

async fn check(arguments: &Arguments) -> Result<ServingStatus, String> {
    let api = arguments.socket.connect().await.map_err(Failure::into_text)?;
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(connect::CALL_LIMIT);
    let answer = connect::health(&api).check(request).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status_text(&status))
}
