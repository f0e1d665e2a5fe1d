//! Workloads that talk to each other over mTLS. They are built on the crates `spiffe` and `spiffe-rustls` from
//! crates.io, so that nothing of Entente is on either end of the connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use spiffe::X509Source;
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Longest answer read, in bytes.
const MAX_ANSWER: u64 = 4096;

/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// One workload with the identity an agent gives it, kept fresh.
#[derive(Debug, Clone)]
pub struct Workload {
    source: X509Source,
}

impl Workload {
    /// Fetches an identity from the Workload API at `endpoint` (`unix:///…`) and goes on watching it.
    pub async fn join(endpoint: &str) -> Result<Self> {
        crate::install_crypto();
        let building = X509Source::builder().endpoint(endpoint).build();
        let source = timeout(crate::wait::LIMIT, building).await.context("no X509-SVID in time")??;
        Ok(Self { source })
    }

    /// The source itself.
    pub fn source(&self) -> &X509Source {
        &self.source
    }

    /// Serves, and lets in exactly the SPIFFE IDs `callers`.
    pub async fn serve(&self, callers: &[&str]) -> Result<Greeter> {
        let config = mtls_server(self.source.clone()).authorize(authorizer::exact(callers.iter().copied())?).build()?;
        Greeter::start(config).await
    }

    /// TLS configuration of a client that talks to exactly the SPIFFE ID `server`.
    pub fn client_config(&self, server: &str) -> Result<ClientConfig> {
        Ok(mtls_client(self.source.clone()).authorize(authorizer::exact([server])?).build()?)
    }

    /// One HTTP request on a new connection to `address`, whose SPIFFE ID must be `server`: the body of the answer.
    pub async fn call(&self, address: SocketAddr, server: &str) -> Result<String> {
        call(self.client_config(server)?, address).await
    }
}

/// One HTTP request on a new TLS connection: the body of the answer.
pub async fn call(config: ClientConfig, address: SocketAddr) -> Result<String> {
    timeout(CALL_LIMIT, async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost")?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        if let Err(error) = (&mut stream).take(MAX_ANSWER).read_to_string(&mut answer).await
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            return Err(error.into());
        }
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP answer: {answer:?}"))?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Ok(body.to_owned())
    })
    .await
    .context("the call took too long")?
}

/// A TLS server that greets each caller by its SPIFFE ID.
#[derive(Debug)]
pub struct Greeter {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Greeter {
    /// Starts on a free port of loopback.
    pub async fn start(config: ServerConfig) -> Result<Self> {
        Self::start_on(0, config).await
    }

    /// Starts on a port of loopback.
    pub async fn start_on(port: u16, config: ServerConfig) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                // A refused handshake concerns that caller alone; the caller's error is what tests look at.
                tokio::spawn(async move { drop(timeout(CALL_LIMIT, greet(acceptor, stream)).await) });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn greet(acceptor: TlsAcceptor, stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let caller = {
        let (_, connection) = stream.get_ref().get_ref();
        let leaf = connection.peer_certificates().and_then(<[_]>::first).context("no client certificate")?;
        spiffe_id(leaf)?
    };
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line == "\r\n" {
            break;
        }
    }
    let body = format!("hello {caller}");
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

/// The one URI of a certificate's subject alternative names.
pub fn spiffe_id(der: &[u8]) -> Result<String> {
    let (_, certificate) = X509Certificate::from_der(der)?;
    let names = certificate.subject_alternative_name()?.context("no subject alternative name")?;
    let uris: Vec<&str> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    ensure!(uris.len() == 1, "URI names: {uris:?}");
    Ok(uris[0].to_owned())
}
