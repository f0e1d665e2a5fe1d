//! `entente agent api watch`.

use std::time::Duration;

use federation_specs::proto::workload::X509svidRequest;
use service_kit::backoff::Backoff;
use service_kit::clock::{Clock as _, SystemClock};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::x509_context::X509Context;
use crate::connect::{self, AgentSocket};
use crate::failure::{Failure, status_text};
use crate::output;
use crate::standard_error;

/// Waits between tries while the agent does not answer.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: AgentSocket,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    tokio::select! {
        outcome = watch(arguments) => outcome,
        outcome = tokio::signal::ctrl_c() => {
            outcome.map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
            // The watcher and the command end with the same words.
            let canceled = status_text(&Status::cancelled("context canceled"));
            standard_error::to_stderr(&format!("{canceled}\n"));
            Err(Failure::new(canceled))
        }
    }
}

/// Ends only with an error that trying again cannot mend.
async fn watch(arguments: &Arguments) -> Result<(), Failure> {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        match follow(arguments, &mut backoff).await {
            Ended::For(failure) => return Err(failure),
            Ended::ForNow(reason) => standard_error::to_stderr(&format!("{reason}\n")),
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

enum Ended {
    For(Failure),
    ForNow(String),
}

async fn follow(arguments: &Arguments, backoff: &mut Backoff) -> Ended {
    let ended = |status: Status| match status.code() {
        Code::InvalidArgument | Code::Unimplemented => Ended::For(status.into()),
        _ => Ended::ForNow(status_text(&status)),
    };
    let api = match arguments.socket.connect().await {
        Ok(api) => api,
        Err(failure) => return Ended::ForNow(failure.into_text()),
    };
    let mut asked = Instant::now();
    let mut updates = match connect::workload(&api).fetch_x509svid(X509svidRequest {}).await {
        Ok(updates) => updates.into_inner(),
        Err(status) => return ended(status),
    };
    loop {
        let response = match updates.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Ended::ForNow("the Workload API ended the stream".to_owned()),
            Err(status) => return ended(status),
        };
        backoff.reset();
        match X509Context::verify(&response, SystemClock.now()) {
            Ok(context) => {
                if let Err(failure) = output::to_stdout(&context.pretty(asked.elapsed(), false)) {
                    return Ended::For(failure);
                }
            }
            Err(failure) => standard_error::to_stderr(&format!("{}\n", failure.into_text())),
        }
        asked = Instant::now();
    }
}
