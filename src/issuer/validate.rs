//! `entente issuer validate`.

use crate::failure::Failure;
use crate::issuer::run::{self, Arguments};
use crate::output::to_stdout;

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let invalid = |failure: Failure| failure.context("SPIRE server configuration file is invalid");
    run::configuration(arguments).map_err(invalid)?;
    to_stdout("SPIRE server configuration file is valid.\n")
}
