//! The `-timeout` flag of the commands that ask the Workload API.

use std::time::Duration;

use service_kit::config::HumanDuration;
use tonic::Status;

use crate::failure::Failure;

/// The flag itself.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Timeout {
    /// How long the Workload API may take, like 5s
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    timeout: HumanDuration,
}

impl Timeout {
    /// The work's outcome, or the end of its time.
    pub(super) async fn limit<T>(self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        limited(self.timeout.get(), work).await
    }
}

pub(super) async fn limited<T>(limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded").into()),
    }
}
