//! `entente gateway validate`.

use super::run::{self, Arguments};
use crate::failure::Failure;
use crate::output::to_stdout;

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let invalid = |failure: Failure| failure.context("Entente gateway configuration file is invalid");
    run::configuration(arguments).map_err(invalid)?;
    to_stdout("Entente gateway configuration file is valid.\n")
}
