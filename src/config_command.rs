//! `entente config schema issuer|agent|gateway|resources`.

use clap::ValueEnum;

use crate::failure::Failure;
use crate::output;

/// The commands of `entente config`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the JSON Schema of a service's configuration file, or of the files `entente gateway apply` reads
    Schema(Schema),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Schema {
    /// The service, or resources
    #[arg(value_enum)]
    service: Service,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Service {
    Issuer,
    Agent,
    Gateway,
    Resources,
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    let Command::Schema(arguments) = command;
    output::to_stdout(&schema(arguments.service)?)
}

fn schema(service: Service) -> Result<String, Failure> {
    use service_kit::config::schema;
    let schema = match service {
        Service::Issuer => schema::<::issuer::config::Config>(),
        Service::Agent => schema::<::agent::config::Config>(),
        Service::Gateway => schema::<::gateway::config::Config>(),
        Service::Resources => schema::<::gateway::config::Resources>(),
    };
    let text = serde_json::to_string_pretty(&schema);
    Ok(text.map_err(|error| Failure::new(format!("cannot print the schema: {error}")))? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_schema_that_names_its_keys() {
        for service in [Service::Issuer, Service::Agent, Service::Gateway] {
            let schema: serde_json::Value = serde_json::from_str(&schema(service).unwrap()).unwrap();
            assert!(schema["properties"]["data_dir"].is_object(), "{service:?}");
            assert_eq!(schema["additionalProperties"], serde_json::json!(false), "{service:?}");
        }
        let schema: serde_json::Value = serde_json::from_str(&schema(Service::Resources).unwrap()).unwrap();
        assert!(schema["properties"]["relationships"].is_object(), "{schema}");
    }
}
