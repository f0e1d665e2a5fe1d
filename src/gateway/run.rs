//! `entente gateway run`.

use gateway::config::{Config, ENV_PREFIX};
use gateway::settings::Settings as Checked;
use service_kit::clock::SystemClock;
use service_kit::lifecycle::{self, Shutdown};
use service_kit::telemetry;

use crate::configuration::{self, Settings};
use crate::failure::Failure;

/// The flags of `run` and `validate`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Folder for the database and the endpoint's SVIDs
    #[arg(long = "dataDir", value_name = "DIR")]
    data_dir: Option<String>,
    /// Unix socket of the local admin API
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<String>,
    /// Append the log to this file
    #[arg(long = "logFile", value_name = "FILE")]
    log_file: Option<String>,
    /// text or json
    #[arg(long = "logFormat", value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long = "logLevel", value_name = "LEVEL")]
    log_level: Option<String>,
}

/// The configuration the arguments lead to, checked.
pub(super) fn configuration(arguments: &Arguments) -> Result<Config, Failure> {
    let settings = Settings::new()
        .text("dataDir", "data_dir", arguments.data_dir.as_deref())
        .text("socketPath", "socket_path", arguments.socket_path.as_deref())
        .log(arguments.log_level.as_deref(), arguments.log_format.as_deref(), arguments.log_file.as_deref());
    let config: Config = configuration::load("gateway", arguments.config.as_deref(), ENV_PREFIX, settings)?;
    Checked::check(&config).map_err(|error| Failure::chain(&error))?;
    Ok(config)
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let config = configuration(&arguments)?;
    let log = telemetry::init(&config.log()).map_err(|error| Failure::chain(&error))?;
    lifecycle::raise_file_limit();
    let shutdown =
        Shutdown::on_signals().map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    let service = gateway::run(config, log, SystemClock::shared(), shutdown);
    Box::pin(service).await.map_err(|error| Failure::chain(&error))
}
