//! `entente gateway openapi`.

use gateway::http::admin::openapi;

use crate::failure::Failure;
use crate::output::to_stdout;

/// Prints the description of this build's admin API; no gateway is asked.
pub(super) fn run() -> Result<(), Failure> {
    to_stdout(openapi::document())
}
