//! Where the gateway is: its Unix socket, or its admin listener on another machine.

use federation_specs::id::SpiffeId;

use super::client::Client;
use super::identity::{self, Files, Identity};
use crate::connect::{AgentSocket, GatewaySocket};
use crate::failure::Failure;
use crate::notation::quote;

/// Where the gateway is and who asks.
#[derive(Debug, clap::Args)]
pub(crate) struct GatewayAddress {
    #[command(flatten)]
    socket: GatewaySocket,
    /// The gateway's admin listener, host:port, instead of its socket
    #[arg(id = "gateway_address", long = "address", value_name = "HOST:PORT", requires = "server_id")]
    address: Option<String>,
    /// The SPIFFE ID the admin listener must prove
    #[arg(long = "server-id", value_name = "SPIFFE_ID", requires = "gateway_address")]
    server_id: Option<String>,
    /// The Workload API that gives this command its X509-SVID [default: SPIFFE_ENDPOINT_SOCKET, else
    /// /tmp/spire-agent/public/api.sock]
    #[arg(long = "workload-api-socket", value_name = "PATH", requires = "gateway_address")]
    workload_api_socket: Option<String>,
    /// PEM certificate chain of an X509-SVID, instead of a Workload API
    #[arg(id = "svid_cert", long = "cert", value_name = "FILE", requires_all = ["gateway_address", "svid_key", "server_bundle"],
          conflicts_with = "workload_api_socket")]
    cert: Option<String>,
    /// Its PEM private key
    #[arg(id = "svid_key", long = "key", value_name = "FILE", requires = "svid_cert")]
    key: Option<String>,
    /// The bundle of the server's trust domain: PEM certificates or a SPIFFE bundle document
    #[arg(id = "server_bundle", long = "bundle", value_name = "FILE", requires = "svid_cert")]
    bundle: Option<String>,
}

impl GatewayAddress {
    /// A client of that gateway. An identity is fetched now if one is needed; nothing else is.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        let (Some(address), Some(server_id)) = (&self.address, &self.server_id) else {
            return Ok(Client::new(self.socket.path()?));
        };
        let server_id = SpiffeId::parse(server_id)
            .map_err(|error| Failure::new(format!("--server-id {}: {error}", quote(server_id))))?;
        let identity = match (&self.cert, &self.key, &self.bundle) {
            (Some(cert), Some(key), Some(bundle)) => {
                Identity::from_files(&Files { cert, key, bundle }, server_id.trust_domain())?
            }
            _ => identity::fetch(&AgentSocket::new(self.workload_api_socket.clone())).await?,
        };
        Client::over_tls(address, &server_id, identity)
    }
}
