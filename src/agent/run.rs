//! `entente agent run`.

use agent::config::{Config, ENV_PREFIX};
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
    /// Address of the issuer
    #[arg(long = "serverAddress", value_name = "ADDRESS")]
    server_address: Option<String>,
    /// Port of the issuer
    #[arg(long = "serverPort", value_name = "PORT")]
    server_port: Option<String>,
    /// The trust domain
    #[arg(long = "trustDomain", value_name = "NAME")]
    trust_domain: Option<String>,
    /// File with the issuer's bundle to start from
    #[arg(long = "trustBundle", value_name = "FILE")]
    trust_bundle: Option<String>,
    /// https URL of the issuer's bundle to start from
    #[arg(long = "trustBundleUrl", value_name = "URL")]
    trust_bundle_url: Option<String>,
    /// What that file or URL holds: pem or spiffe
    #[arg(long = "trustBundleFormat", value_name = "FORMAT")]
    trust_bundle_format: Option<String>,
    /// Trust whoever answers as the issuer the first time
    #[arg(long = "insecureBootstrap")]
    insecure_bootstrap: bool,
    /// Join token to attest with
    #[arg(long = "joinToken", value_name = "TOKEN")]
    join_token: Option<String>,
    /// File with the join token to attest with
    #[arg(long = "joinTokenFile", value_name = "FILE")]
    join_token_file: Option<String>,
    /// Folder for the agent's keys and SVID
    #[arg(long = "dataDir", value_name = "DIR")]
    data_dir: Option<String>,
    /// Unix socket of the Workload API
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<String>,
    /// Give callers without an entry the bundles, so that they can verify others
    #[arg(long = "allowUnauthenticatedVerifiers")]
    allow_unauthenticated_verifiers: bool,
    /// Append the log to this file
    #[arg(long = "logFile", value_name = "FILE")]
    log_file: Option<String>,
    /// text or json
    #[arg(long = "logFormat", value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long = "logLevel", value_name = "LEVEL")]
    log_level: Option<String>,
    /// Not there yet, except never
    #[arg(long = "rebootstrapMode", value_name = "MODE", hide = true)]
    rebootstrap_mode: Option<String>,
    /// Not there yet
    #[arg(long = "rebootstrapDelay", value_name = "DURATION", hide = true)]
    rebootstrap_delay: Option<String>,
    /// Not there yet
    #[arg(long = "disableWorkloadAPI", hide = true)]
    disable_workload_api: bool,
    /// There is no SDS API yet, so nothing to disable
    #[arg(long = "disableSDSAPI", hide = true)]
    disable_sds_api: bool,
    #[command(flatten)]
    unserved: UnservedFlags,
}

impl Arguments {
    fn check(&self) -> Result<(), Failure> {
        self.unserved.check(ENV_PREFIX)?;
        if self.rebootstrap_mode.as_deref().is_some_and(|mode| !mode.is_empty() && mode != "never") {
            return Err(Failure::new("-rebootstrapMode is not supported yet, except as never; leave it out"));
        }
        if self.rebootstrap_delay.is_some() {
            return Err(Failure::new("-rebootstrapDelay is not supported yet; leave it out"));
        }
        if self.disable_workload_api {
            return Err(Failure::new("-disableWorkloadAPI is not supported yet; leave it out"));
        }
        Ok(())
    }
}

/// The configuration the arguments lead to, checked.
pub(super) fn configuration(arguments: &Arguments) -> Result<Config, Failure> {
    arguments.check()?;
    let settings = Settings::new()
        .text("serverAddress", "server_address", arguments.server_address.as_deref())
        .text("serverPort", "server_port", arguments.server_port.as_deref())
        .text("trustDomain", "trust_domain", arguments.trust_domain.as_deref())
        .text("trustBundle", "trust_bundle_path", arguments.trust_bundle.as_deref())
        .text("trustBundleUrl", "trust_bundle_url", arguments.trust_bundle_url.as_deref())
        .text("trustBundleFormat", "trust_bundle_format", arguments.trust_bundle_format.as_deref())
        .switch("insecureBootstrap", "insecure_bootstrap", arguments.insecure_bootstrap)
        .text("joinToken", "join_token", arguments.join_token.as_deref())
        .text("joinTokenFile", "join_token_file", arguments.join_token_file.as_deref())
        .text("dataDir", "data_dir", arguments.data_dir.as_deref())
        .text("socketPath", "socket_path", arguments.socket_path.as_deref())
        .switch(
            "allowUnauthenticatedVerifiers",
            "allow_unauthenticated_verifiers",
            arguments.allow_unauthenticated_verifiers,
        )
        .log(arguments.log_level.as_deref(), arguments.log_format.as_deref(), arguments.log_file.as_deref());
    let config: Config = configuration::load("agent", arguments.config.as_deref(), ENV_PREFIX, settings)?;
    config.check().map_err(|error| Failure::chain(&error))?;
    Ok(config)
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let config = configuration(&arguments)?;
    let log = telemetry::init(&config.log()).map_err(|error| Failure::chain(&error))?;
    lifecycle::raise_file_limit();
    let shutdown =
        Shutdown::on_signals().map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    let service = agent::run(config, log, SystemClock::shared(), shutdown);
    Box::pin(service).await.map_err(|error| Failure::chain(&error))
}
