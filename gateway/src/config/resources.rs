//! Declared resources: what `entente gateway apply` reads.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Relationship;

/// One document of a resources file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Partners, as in the configuration of the gateway. Paths of files are relative to this file and read by the command.
    pub relationships: Vec<Relationship>,
}
