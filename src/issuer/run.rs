//! `entente issuer run`.

use issuer::config::{Config, ENV_PREFIX};
use service_kit::clock::SystemClock;
use service_kit::lifecycle::{self, Shutdown};
use service_kit::telemetry;

use crate::configuration::{self, Settings, UnservedFlags};
use crate::failure::Failure;

/// The flags of `run` and `validate`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Configuration file (YAML); not needed if the other flags give what is required
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// IP address to listen on
    #[arg(long = "bindAddress", value_name = "ADDRESS")]
    bind_address: Option<String>,
    /// TCP port to listen on
    #[arg(long = "serverPort", value_name = "PORT")]
    server_port: Option<String>,
    /// The trust domain
    #[arg(long = "trustDomain", value_name = "NAME")]
    trust_domain: Option<String>,
    /// Folder for keys and database
    #[arg(long = "dataDir", value_name = "DIR")]
    data_dir: Option<String>,
    /// Unix socket of the local API
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
    #[command(flatten)]
    unserved: UnservedFlags,
}

/// The configuration the arguments lead to, checked.
pub(super) fn configuration(arguments: &Arguments) -> Result<Config, Failure> {
    arguments.unserved.check(ENV_PREFIX)?;
    let settings = Settings::new()
        .text("bindAddress", "bind_address", arguments.bind_address.as_deref())
        .text("serverPort", "bind_port", arguments.server_port.as_deref())
        .text("trustDomain", "trust_domain", arguments.trust_domain.as_deref())
        .text("dataDir", "data_dir", arguments.data_dir.as_deref())
        .text("socketPath", "socket_path", arguments.socket_path.as_deref())
        .log(arguments.log_level.as_deref(), arguments.log_format.as_deref(), arguments.log_file.as_deref());
    let config: Config = configuration::load("issuer", arguments.config.as_deref(), ENV_PREFIX, settings)?;
    config.check().map_err(|error| Failure::chain(&error))?;
    Ok(config)
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let config = configuration(&arguments)?;
    let log = telemetry::init(&config.log()).map_err(|error| Failure::chain(&error))?;
    lifecycle::raise_file_limit();
    let shutdown =
        Shutdown::on_signals().map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    let service = issuer::run(config, log, SystemClock::shared(), shutdown);
    Box::pin(service).await.map_err(|error| Failure::chain(&error))
}
