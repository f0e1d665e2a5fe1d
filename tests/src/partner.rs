//! A partner's bundle endpoint over `https_web` that answers whatever a test wants, good or hostile.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::web_ca::WebCa;

/// How the endpoint treats a request.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// 200 with this body.
    Serve(String),
    /// Another status with this body.
    Status(u16, String),
    /// 302 to this URL.
    Redirect(String),
    /// Accepts, completes the handshake and never answers.
    Silence,
    /// Announces a body and sends a byte of it now and then, without end.
    Drip,
    /// Sends a body without end, as fast as it can.
    Flood,
    /// Closes in the middle of the body.
    Cut,
}

/// The endpoint; dropping it closes it.
#[derive(Debug)]
pub struct Partner {
    /// Where it listens.
    pub address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Partner {
    /// Listens on a free port of loopback with the certificate of `web`.
    pub async fn start(web: &WebCa, behaviour: Behaviour) -> Result<Self> {
        crate::install_crypto();
        let chain = CertificateDer::pem_slice_iter(&fs::read(&web.certificate)?).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&fs::read(&web.key)?)?;
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (behaviour, requests) = (Arc::new(Mutex::new(behaviour)), Arc::<AtomicUsize>::default());
        let (shown, counted) = (behaviour.clone(), requests.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behaviour, counted) = (acceptor.clone(), shown.clone(), counted.clone());
                // What goes wrong with one connection is what the test provoked.
                tokio::spawn(async move { drop(answer(&acceptor, stream, &behaviour, &counted).await) });
            }
        });
        Ok(Self { address, behaviour, requests, task })
    }

    /// Its bundle URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/bundle", self.address.port())
    }

    /// Changes how it answers from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        if let Ok(mut current) = self.behaviour.lock() {
            *current = behaviour;
        }
    }

    /// How many requests arrived so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    behaviour: &Mutex<Behaviour>,
    requests: &AtomicUsize,
) -> Result<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    loop {
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        let behaviour = behaviour.lock().map(|current| current.clone()).ok().context("poisoned")?;
        respond(stream.get_mut(), behaviour).await?;
    }
}

async fn respond(stream: &mut TlsStream<TcpStream>, behaviour: Behaviour) -> Result<()> {
    let whole = |status: u16, more: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n{body}")
    };
    let endless = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    match behaviour {
        Behaviour::Serve(body) => stream.write_all(whole(200, "", &body).as_bytes()).await?,
        Behaviour::Status(status, body) => stream.write_all(whole(status, "", &body).as_bytes()).await?,
        Behaviour::Redirect(to) => stream.write_all(whole(302, &format!("location: {to}\r\n"), "").as_bytes()).await?,
        Behaviour::Silence => sleep(Duration::from_secs(3600)).await,
        Behaviour::Drip => {
            stream.write_all(endless.as_bytes()).await?;
            loop {
                stream.write_all(b"1\r\n \r\n").await?;
                stream.flush().await?;
                sleep(Duration::from_millis(200)).await;
            }
        }
        Behaviour::Flood => {
            stream.write_all(endless.as_bytes()).await?;
            let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        Behaviour::Cut => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"keys\": [").await?;
            stream.shutdown().await?;
        }
    }
    stream.flush().await?;
    Ok(())
}
