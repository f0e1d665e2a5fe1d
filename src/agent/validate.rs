//! `entente agent validate`.

use crate::agent::run::{self, Arguments};
use crate::failure::Failure;
use crate::output::to_stdout;

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let invalid = |failure: Failure| failure.context("SPIRE agent configuration file is invalid");
    run::configuration(arguments).map_err(invalid)?;
    to_stdout("SPIRE agent configuration file is valid.\n")
}
