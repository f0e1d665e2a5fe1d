//! Configuration of the services that `run` starts: flag, then environment, then file, then default.

use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use service_kit::config::{self, ConfigError, FlagSetting};
use service_kit::telemetry::LogLevel;

use crate::failure::{Failure, error_chain};
use crate::notation::quote;

/// The settings a command line gives.
#[derive(Debug, Default)]
pub(crate) struct Settings(Vec<FlagSetting>);

impl Settings {
    /// Nothing given yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A flag sets the key at `path` (`a.b`), unless the flag is absent or empty.
    pub(crate) fn text(mut self, flag: &str, path: &str, value: Option<&str>) -> Self {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.0.push(FlagSetting::new(flag, path, value));
        }
        self
    }

    /// The log flags every service has. SPIRE writes levels in capitals.
    pub(crate) fn log(self, level: Option<&str>, format: Option<&str>, file: Option<&str>) -> Self {
        let known = level.and_then(|level| level.parse::<LogLevel>().ok());
        let format = format.map(str::to_ascii_lowercase);
        self.text("logLevel", "log_level", known.map(LogLevel::as_str).or(level))
            .text("logFormat", "log_format", format.as_deref())
            .text("logFile", "log_file", file)
    }

    /// A switch sets the key at `path` to true, if it is on.
    pub(crate) fn switch(self, flag: &str, path: &str, on: bool) -> Self {
        self.text(flag, path, on.then_some("true"))
    }
}

/// Flags of SPIRE's `run` that say how the file is read or the log is written, and are not there yet.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct UnservedFlags {
    /// Not there yet: settings come from the environment by ENTENTE_… variables instead
    #[arg(long = "expandEnv", hide = true)]
    expand_env: bool,
    /// Not there yet
    #[arg(long = "logSourceLocation", hide = true)]
    log_source_location: bool,
}

impl UnservedFlags {
    /// Refuses what would otherwise be passed over in silence.
    pub(crate) fn check(&self, env_prefix: &str) -> Result<(), Failure> {
        if self.expand_env {
            return Err(Failure::new(format!(
                "-expandEnv is not supported: set a setting by an environment variable instead, like \
                 {env_prefix}__DATA_DIR for data_dir"
            )));
        }
        if self.log_source_location {
            return Err(Failure::new("-logSourceLocation is not supported yet; leave it out"));
        }
        Ok(())
    }
}

/// Reads a service's configuration. Without a file, flags and environment have to give what is required.
pub(crate) fn load<T: DeserializeOwned + JsonSchema>(
    service: &str,
    path: Option<&str>,
    env_prefix: &str,
    settings: Settings,
) -> Result<T, Failure> {
    let path = path.filter(|path| !path.is_empty()).map(Path::new);
    if let Some(path) = path {
        refuse_hcl(service, path)?;
    }
    config::load_with_flags(path, env_prefix, settings.0).map_err(|error| match error {
        ConfigError::Missing { path } => {
            let shown = std::path::absolute(&path).unwrap_or(path);
            Failure::new(format!("could not find config file {}: please use the -config flag", shown.display()))
        }
        ConfigError::Value { key, reason, .. } if path.is_none() => {
            let place = if key.is_empty() || key == "." { String::new() } else { format!("`{key}`: ") };
            Failure::new(format!(
                "{place}{reason}; name a configuration file by -config, or correct the flags (see -h)"
            ))
        }
        other => Failure::new(error_chain(&other)),
    })
}

/// SPIRE's configuration language is for a converter that does not exist yet.
fn refuse_hcl(service: &str, path: &Path) -> Result<(), Failure> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if matches!(extension, "conf" | "hcl") {
        return Err(Failure::new(format!(
            "config file {} is in SPIRE's format, which is not read: `entente config convert`, which will turn it \
             into YAML, is not there yet; write a YAML file with the keys of `entente config schema {service}`",
            quote(&path.display().to_string())
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        trust_domain: String,
        #[serde(default)]
        bind_port: u16,
        #[serde(default)]
        insecure_bootstrap: bool,
    }

    fn sample(path: Option<&str>, settings: Settings) -> Result<Sample, String> {
        load("issuer", path, "ENTENTE_TEST_SAMPLE", settings).map_err(|failure| failure.text().to_owned())
    }

    #[test]
    fn flags_come_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sample.yaml");
        std::fs::write(&file, "trust_domain: file.example\nbind_port: 1\n").unwrap();
        let settings = Settings::new().text("trustDomain", "trust_domain", Some("flag.example"));
        let read = sample(file.to_str(), settings.switch("insecureBootstrap", "insecure_bootstrap", true)).unwrap();
        assert_eq!((read.trust_domain.as_str(), read.bind_port, read.insecure_bootstrap), ("flag.example", 1, true));
    }

    #[test]
    fn a_file_is_not_needed_if_the_flags_say_enough() {
        let settings = Settings::new().text("trustDomain", "trust_domain", Some("12")).text(
            "serverPort",
            "bind_port",
            Some("8081"),
        );
        let read = sample(None, settings).unwrap();
        assert_eq!((read.trust_domain.as_str(), read.bind_port), ("12", 8081));
        assert!(sample(None, Settings::new()).unwrap_err().contains("trust_domain"));
    }

    #[test]
    fn a_flag_with_a_wrong_value_is_named() {
        let settings =
            Settings::new().text("trustDomain", "trust_domain", Some("a")).text("serverPort", "bind_port", Some("x"));
        assert!(sample(None, settings).unwrap_err().contains("bind_port"));
    }

    #[test]
    fn spires_own_files_are_refused_with_the_remedy() {
        let refusal = sample(Some("conf/server/server.conf"), Settings::new()).unwrap_err();
        assert!(refusal.contains("`entente config convert`") && refusal.contains("entente config schema issuer"));
        let missing = sample(Some("/nowhere/issuer.yaml"), Settings::new()).unwrap_err();
        assert_eq!(missing, "could not find config file /nowhere/issuer.yaml: please use the -config flag");
    }
}
