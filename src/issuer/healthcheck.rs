//! `entente issuer healthcheck`.

use federation_specs::proto::health::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::connect::{self, IssuerSocket};
use crate::failure::{Failure, status_text};
use crate::notation::quote;
use crate::output::to_stdout;
use crate::standard_error::to_stderr;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: IssuerSocket,
    /// Taken for SPIRE's sake; the check is the same
    #[arg(long)]
    shallow: bool,
    /// Say what is done
    #[arg(long)]
    verbose: bool,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.verbose {
        to_stdout("Checking server health...\n")?;
    }
    match check(arguments).await {
        Ok(ServingStatus::Serving) => to_stdout("Server is healthy.\n"),
        Ok(other) => {
            let status = quote(other.as_str_name());
            Err(Failure::new(format!("server is unhealthy: server returned status {status}")))
        }
        Err(failure) => {
            if arguments.verbose {
                to_stderr(&format!("Failed to check health: {failure}\n"));
            }
            Err(Failure::new("server is unhealthy: unable to determine health"))
        }
    }
}

async fn check(arguments: &Arguments) -> Result<ServingStatus, String> {
    let api = arguments.socket.connect().await.map_err(Failure::into_text)?;
    let answer = connect::health(&api).check(HealthCheckRequest::default()).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status_text(&status))
}
