//! Logs: text for people or JSON for machines, with a level that can change while the service runs.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Registry,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    reload,
};

/// Libraries whose informational messages are of no use to an operator; they are held at `warn` unless the service's
/// own level is `debug` or `trace`.
const QUIET_LIBRARIES: &[&str] = &["h2", "hyper", "hyper_util", "rustls", "tonic", "tower", "reqwest", "sqlx"];

/// How much is logged. The names are SPIRE's; `fatal` and `panic` log errors only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything, in detail.
    Trace,
    /// Useful to find defects.
    Debug,
    /// What an operator wants to know.
    #[default]
    #[serde(alias = "INFO")]
    Info,
    /// What may need attention.
    #[serde(alias = "WARN", alias = "warning")]
    Warn,
    /// What failed.
    #[serde(alias = "ERROR")]
    Error,
}

impl LogLevel {
    /// The name in lowercase.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    fn filter(self) -> EnvFilter {
        let level = match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warn => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
        };
        let mut filter = EnvFilter::default().add_directive(level.into());
        if self == Self::Info {
            for library in QUIET_LIBRARIES {
                if let Ok(directive) = format!("{library}=warn").parse() {
                    filter = filter.add_directive(directive);
                }
            }
        }
        if self == Self::Debug {
            // Frames of the transport and every statement of the database drown everything else.
            for library in ["h2", "hyper_util", "loona_hpack", "rustls", "sqlx", "tower"] {
                if let Ok(directive) = format!("{library}=info").parse() {
                    filter = filter.add_directive(directive);
                }
            }
        }
        filter
    }
}

impl FromStr for LogLevel {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text.to_ascii_lowercase().as_str() {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" | "warning" => Ok(Self::Warn),
            "error" | "fatal" | "panic" => Ok(Self::Error),
            _ => Err(LogError::Level { level: text.to_string() }),
        }
    }
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where and how to log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// How much.
    pub level: LogLevel,
    /// In which shape.
    pub format: LogFormat,
    /// Appended to this file; standard error without one. SIGUSR2 reopens it (for log rotation).
    pub file: Option<PathBuf>,
}

/// Why logging could not start or change.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level.
    #[error("log level `{level}` is not known; use trace, debug, info, warn or error")]
    Level {
        /// What was given.
        level: String,
    },
    /// The file cannot be opened.
    #[error("log file {} cannot be opened: {source}; make its folder writable or choose another log_file", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Logging was set up before, by this process.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Control over the running log.
#[derive(Debug, Clone)]
pub struct LogHandle {
    state: Arc<Mutex<LogLevel>>,
    launch: LogLevel,
    reload: Option<reload::Handle<EnvFilter, Registry>>,
    file: Option<LogFile>,
}

impl LogHandle {
    /// A handle that changes nothing, for tests and for services embedded in another program.
    pub fn detached(level: LogLevel) -> Self {
        Self { state: Arc::new(Mutex::new(level)), launch: level, reload: None, file: None }
    }

    /// The level the service started with.
    pub fn launch(&self) -> LogLevel {
        self.launch
    }

    /// The level in force.
    pub fn current(&self) -> LogLevel {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the level at once.
    pub fn set_level(&self, level: LogLevel) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = level;
        if let Some(reload) = &self.reload
            && let Err(error) = reload.reload(level.filter())
        {
            tracing::warn!(%error, "cannot change the log level");
        }
    }

    /// Opens the log file again under its name; nothing to do without a file. On failure the old file stays in use.
    ///
    /// # Errors
    /// [`LogError::File`].
    pub fn reopen(&self) -> Result<(), LogError> {
        self.file.as_ref().map_or(Ok(()), LogFile::reopen)
    }
}

/// Sets up logging for the process.
///
/// # Errors
/// [`LogError`] when the file cannot be opened or logging is already set up.
pub fn init(config: &LogConfig) -> Result<LogHandle, LogError> {
    let file = config.file.as_deref().map(LogFile::open).transpose()?;
    let (filter, reload) = reload::Layer::new(config.level.filter());
    let colour = file.is_none() && config.format == LogFormat::Text && io::stderr().is_terminal();
    let output = file.clone().map_or(Output::StandardError, Output::File);
    let registry = Registry::default().with(filter);
    let set = match config.format {
        LogFormat::Text => {
            let layer = fmt::layer().with_ansi(colour).with_target(false).with_writer(output);
            tracing::subscriber::set_global_default(registry.with(layer))
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_target(false).with_writer(output);
            tracing::subscriber::set_global_default(registry.with(layer))
        }
    };
    set.map_err(|_| LogError::AlreadySet)?;
    let handle =
        LogHandle { state: Arc::new(Mutex::new(config.level)), launch: config.level, reload: Some(reload), file };
    if handle.file.is_some() && tokio::runtime::Handle::try_current().is_ok() {
        reopen_on_signal(handle.clone());
    }
    Ok(handle)
}

fn reopen_on_signal(handle: LogHandle) {
    let Ok(mut signals) = signal(SignalKind::user_defined2()) else { return };
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            match handle.reopen() {
                Ok(()) => tracing::info!("log file reopened"),
                Err(error) => tracing::warn!(%error, "log file not reopened"),
            }
        }
    });
}

/// A log file that can be opened again under its name.
#[derive(Debug, Clone)]
struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, LogError> {
        Ok(Self { path: path.to_path_buf(), file: Arc::new(Mutex::new(append(path)?)) })
    }

    fn reopen(&self) -> Result<(), LogError> {
        let file = append(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

fn append(path: &Path) -> Result<File, LogError> {
    let open = OpenOptions::new().append(true).create(true).open(path);
    open.map_err(|source| LogError::File { path: path.to_path_buf(), source })
}

/// Where lines go.
#[derive(Debug, Clone)]
enum Output {
    StandardError,
    File(LogFile),
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Box<dyn Write + 'a>;

    fn make_writer(&'a self) -> Self::Writer {
        match self {
            Self::StandardError => Box::new(io::stderr()),
            Self::File(file) => Box::new(Line(file)),
        }
    }
}

/// Writes one line under the lock.
struct Line<'a>(&'a LogFile);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_parse_and_name_the_choices() {
        assert_eq!("DEBUG".parse::<LogLevel>().unwrap(), LogLevel::Debug);
        assert_eq!("warning".parse::<LogLevel>().unwrap(), LogLevel::Warn);
        let error = "loud".parse::<LogLevel>().unwrap_err();
        assert_eq!(error.to_string(), "log level `loud` is not known; use trace, debug, info, warn or error");
    }

    #[test]
    fn json_lines_reach_the_file_reload_and_reopen_work() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entente.log");
        let config = LogConfig { level: LogLevel::Info, format: LogFormat::Json, file: Some(path.clone()) };
        let handle = init(&config).unwrap();
        tracing::info!(answer = 42, "first");
        tracing::debug!("hidden");
        handle.set_level(LogLevel::Debug);
        tracing::debug!("shown");
        assert_eq!((handle.launch(), handle.current()), (LogLevel::Info, LogLevel::Debug));

        let moved = folder.path().join("entente.log.1");
        std::fs::rename(&path, &moved).unwrap();
        handle.reopen().unwrap();
        tracing::info!("after rotation");

        let old = std::fs::read_to_string(&moved).unwrap();
        let first: serde_json::Value =
            serde_json::from_str(old.lines().find(|l| l.contains("first")).unwrap()).unwrap();
        assert_eq!(
            (&first["message"], &first["answer"], &first["level"]),
            (&"first".into(), &42.into(), &"INFO".into())
        );
        assert!(old.contains("shown") && !old.contains("hidden"));
        assert!(std::fs::read_to_string(&path).unwrap().contains("after rotation"));
        assert!(matches!(init(&LogConfig::default()), Err(LogError::AlreadySet)));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/entente.log");
        let error = LogFile::open(&path).unwrap_err();
        assert!(error.to_string().contains("choose another log_file"), "{error}");
    }
}
