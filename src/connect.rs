//! Finding the local sockets and connecting to them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use federation_specs::proto;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::failure::{Failure, error_chain, io_reason};
use crate::notation::quote;

/// Where an issuer listens unless told otherwise.
const ISSUER_SOCKET: &str = "/tmp/spire-server/private/api.sock";
/// Where an agent serves the Workload API unless told otherwise.
const AGENT_SOCKET: &str = "/tmp/spire-agent/public/api.sock";
/// Where an agent's admin API is expected unless told otherwise.
const AGENT_ADMIN_SOCKET: &str = "/tmp/spire-agent/private/admin.sock";
/// Where a gateway listens unless told otherwise.
const GATEWAY_SOCKET: &str = "/tmp/entente-gateway/private/api.sock";

/// No call of a command waits longer. Longer than an issuer waits for a gateway's refresh.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(60);
/// The largest answer a command takes: a page of entries or a bundle with thousands of keys fits.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

type Interceptor = fn(Request<()>) -> Result<Request<()>, Status>;
/// A connection on which the generated clients work.
pub(crate) type Api = InterceptedService<Channel, Interceptor>;

/// The issuer's socket.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct IssuerSocket {
    /// The issuer's socket [default: /tmp/spire-server/private/api.sock]
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<String>,
    /// Name to put for %i in SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// The agent's Workload API socket.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AgentSocket {
    /// The Workload API socket [default: SPIFFE_ENDPOINT_SOCKET, else /tmp/spire-agent/public/api.sock]
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<String>,
    /// Name to put for %i in SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// The agent's admin socket.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AgentAdminSocket {
    /// The agent's admin socket [default: /tmp/spire-agent/private/admin.sock]
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<String>,
}

/// The gateway's socket.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GatewaySocket {
    /// The gateway's admin socket [default: /tmp/entente-gateway/private/api.sock]
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<String>,
}

/// How one kind of socket is found.
struct Search<'a> {
    flag: Option<&'a str>,
    instance: Option<&'a str>,
    template: &'static str,
    variables: &'static [&'static str],
    default: &'static str,
}

impl Search<'_> {
    /// The flag, the instance template, the environment, the default: the first that says something.
    fn resolve(&self, variable: impl Fn(&str) -> Option<String>) -> Result<PathBuf, Failure> {
        if let Some(path) = self.flag.filter(|path| !path.is_empty() && *path != self.default) {
            return socket_path(path).map_err(|reason| Failure::new(format!("-socketPath: {reason}")));
        }
        if let Some(name) = self.instance.filter(|name| !name.is_empty()) {
            let template = variable(self.template)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| Failure::new(format!("you must define {} to use the instance flag", self.template)))?;
            if !template.contains("%i") {
                return Err(Failure::new(format!("failed to find %i in {}", self.template)));
            }
            return Ok(PathBuf::from(template.replace("%i", name)));
        }
        for name in self.variables {
            if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
                return socket_path(&value).map_err(|reason| Failure::new(format!("{name}: {reason}")));
            }
        }
        Ok(PathBuf::from(self.default))
    }
}

/// A socket as a path or as a `unix:` URI.
fn socket_path(text: &str) -> Result<PathBuf, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(format!("{} does not name an absolute path; write unix:///path/to/socket", quote(text)));
        }
        return Ok(PathBuf::from(path));
    }
    if text.contains("://") {
        return Err(format!("{} is no Unix socket; write unix:///path/to/socket", quote(text)));
    }
    Ok(PathBuf::from(text))
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl IssuerSocket {
    fn path(&self) -> Result<PathBuf, Failure> {
        Search {
            flag: self.socket_path.as_deref(),
            instance: self.instance.as_deref(),
            template: "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE",
            variables: &["SPIRE_SERVER_PRIVATE_SOCKET", "ENTENTE_ISSUER_SOCKET"],
            default: ISSUER_SOCKET,
        }
        .resolve(environment)
    }

    /// Connects to the issuer.
    pub(crate) async fn connect(&self) -> Result<Api, Failure> {
        // The extra slashes are how SPIRE's command prints its target.
        let api = connect(&self.path()?, "//", deadline).await;
        api.map_err(|failure| {
            failure.remedy("Is the issuer running, and is -socketPath its socket_path? (`entente issuer run`)")
        })
    }
}

impl AgentSocket {
    /// The socket at this path, or where it is found without one.
    pub(crate) fn new(path: Option<String>) -> Self {
        Self { socket_path: path, instance: None }
    }

    /// The socket at a known path.
    pub(crate) fn at(path: &Path) -> Self {
        Self::new(Some(path.display().to_string()))
    }

    fn path(&self) -> Result<PathBuf, Failure> {
        Search {
            flag: self.socket_path.as_deref(),
            instance: self.instance.as_deref(),
            template: "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE",
            variables: &["SPIRE_AGENT_PUBLIC_SOCKET", "SPIFFE_ENDPOINT_SOCKET"],
            default: AGENT_SOCKET,
        }
        .resolve(environment)
    }

    /// Connects to the Workload API, whose calls carry the header the standard asks for.
    pub(crate) async fn connect(&self) -> Result<Api, Failure> {
        let api = connect(&self.path()?, "", workload_header).await;
        api.map_err(|failure| {
            failure.remedy("Is the agent running, and is -socketPath its socket_path? (`entente agent run`)")
        })
    }
}

impl AgentAdminSocket {
    /// Connects to the agent's admin API.
    pub(crate) async fn connect(&self) -> Result<Api, Failure> {
        let path = Search {
            flag: self.socket_path.as_deref(),
            instance: None,
            template: "",
            variables: &["ENTENTE_AGENT_ADMIN_SOCKET"],
            default: AGENT_ADMIN_SOCKET,
        }
        .resolve(environment)?;
        let api = connect(&path, "//", deadline).await;
        api.map_err(|failure| failure.remedy("Is the agent running with admin_socket_path set to this path?"))
    }
}

impl GatewaySocket {
    /// The path of the gateway's socket.
    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        Search {
            flag: self.socket_path.as_deref(),
            instance: None,
            template: "",
            variables: &["ENTENTE_GATEWAY_SOCKET"],
            default: GATEWAY_SOCKET,
        }
        .resolve(environment)
    }
}

/// Dials at once, so that a wrong path is told before anything is asked.
async fn connect(path: &Path, slashes: &str, interceptor: Interceptor) -> Result<Api, Failure> {
    let unavailable = |reason: String| {
        let shown = path.display();
        Failure::new(format!(
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: \
             dial unix {slashes}{shown}: connect: {reason}\""
        ))
    };
    let dial = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let dial = dial.clone();
        async move { UnixStream::connect(dial).await.map(TokioIo::new) }
    });
    // The name is never resolved: it only fills the request's authority.
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    let channel = channel.map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return unavailable(io_reason(error));
            }
            cause = error.source();
        }
        unavailable(error_chain(&error))
    })?;
    Ok(InterceptedService::new(channel, interceptor))
}

fn deadline(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.set_timeout(CALL_LIMIT);
    Ok(request)
}

/// Workload API streams stay open, so they get no deadline here.
fn workload_header(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    Ok(request)
}

/// Makes the generated clients of a connection, with the bound on answers.
macro_rules! clients {
    ($($name:ident: $client:ty;)*) => {
        $(
            pub(crate) fn $name(api: &Api) -> $client {
                <$client>::new(api.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
            }
        )*
    };
}

clients! {
    agents: proto::server::agent::agent_client::AgentClient<Api>;
    bundles: proto::server::bundle::bundle_client::BundleClient<Api>;
    server_debug: proto::server::debug::debug_client::DebugClient<Api>;
    entries: proto::server::entry::entry_client::EntryClient<Api>;
    local_authority: proto::server::localauthority::local_authority_client::LocalAuthorityClient<Api>;
    server_logger: proto::server::logger::logger_client::LoggerClient<Api>;
    svids: proto::server::svid::svid_client::SvidClient<Api>;
    trust_domains: proto::server::trustdomain::trust_domain_client::TrustDomainClient<Api>;
    health: proto::health::health_client::HealthClient<Api>;
    agent_debug: proto::agent::debug::debug_client::DebugClient<Api>;
    agent_logger: proto::agent::logger::logger_client::LoggerClient<Api>;
    workload: proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient<Api>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search<'a>(flag: Option<&'a str>, instance: Option<&'a str>) -> Search<'a> {
        Search {
            flag,
            instance,
            template: "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE",
            variables: &["SPIRE_AGENT_PUBLIC_SOCKET", "SPIFFE_ENDPOINT_SOCKET"],
            default: AGENT_SOCKET,
        }
    }

    fn resolve(search: &Search<'_>, variables: &[(&str, &str)]) -> Result<String, String> {
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        search.resolve(lookup).map(|path| path.display().to_string()).map_err(|failure| failure.text().to_owned())
    }

    #[test]
    fn the_flag_comes_first_and_the_default_last() {
        let both = [("SPIRE_AGENT_PUBLIC_SOCKET", "/a"), ("SPIFFE_ENDPOINT_SOCKET", "unix:///b")];
        assert_eq!(resolve(&search(Some("/flag"), Some("x")), &both).unwrap(), "/flag");
        assert_eq!(resolve(&search(None, None), &both).unwrap(), "/a");
        assert_eq!(resolve(&search(None, None), &both[1..]).unwrap(), "/b");
        assert_eq!(resolve(&search(None, None), &[("SPIFFE_ENDPOINT_SOCKET", "unix:/c")]).unwrap(), "/c");
        assert_eq!(resolve(&search(None, None), &[]).unwrap(), AGENT_SOCKET);
        // The default spelt out is no choice.
        assert_eq!(resolve(&search(Some(AGENT_SOCKET), None), &both).unwrap(), "/a");
    }

    #[test]
    fn an_instance_needs_its_template() {
        let template = "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE";
        assert_eq!(resolve(&search(None, Some("x")), &[(template, "/run/%i/api.sock")]).unwrap(), "/run/x/api.sock");
        assert_eq!(
            resolve(&search(None, Some("x")), &[]).unwrap_err(),
            "you must define SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE to use the instance flag"
        );
        assert_eq!(
            resolve(&search(None, Some("x")), &[(template, "/run/api.sock")]).unwrap_err(),
            "failed to find %i in SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE"
        );
    }

    #[test]
    fn other_schemes_are_refused() {
        let refused = resolve(&search(None, None), &[("SPIFFE_ENDPOINT_SOCKET", "tcp://127.0.0.1:8000")]);
        assert!(refused.unwrap_err().starts_with("SPIFFE_ENDPOINT_SOCKET: \"tcp://127.0.0.1:8000\" is no Unix socket"));
        assert!(resolve(&search(Some("unix:relative"), None), &[]).unwrap_err().contains("absolute"));
    }

    #[tokio::test]
    async fn a_missing_socket_is_told_in_spires_words() {
        let failure = connect(Path::new("/run/example/nosuch.sock"), "//", deadline).await.unwrap_err();
        assert_eq!(
            failure.text(),
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: \
             dial unix ///run/example/nosuch.sock: connect: no such file or directory\""
        );
    }
}
