//! A receiver of webhooks on plain HTTP of this machine. It can be told to fail, and remembers what it took.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Longest body it reads.
const MAX_BODY: usize = 64 * 1024;

/// What was posted and taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as it came.
    pub body: String,
}

impl Taken {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.body)?)
    }
}

/// The receiver; dropping it closes it.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    taken: Arc<Mutex<Vec<Taken>>>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Listens on a free port of loopback and answers 200.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (status, taken) = (Arc::new(AtomicU16::new(200)), Arc::<Mutex<Vec<Taken>>>::default());
        let (shown, kept) = (Arc::clone(&status), Arc::clone(&taken));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (status, taken) = (Arc::clone(&shown), Arc::clone(&kept));
                // A sender that was killed in the middle is what the test provoked.
                tokio::spawn(async move { drop(serve(stream, &status, &taken).await) });
            }
        });
        Ok(Self { address, status, taken, task })
    }

    /// Where to post.
    pub fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    /// The status it answers from now on.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Everything it answered 200, in order.
    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().map(|taken| taken.clone()).unwrap_or_default()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, status: &AtomicU16, taken: &Mutex<Vec<Taken>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut headers = BTreeMap::new();
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 && line != "\r\n" {
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            line.clear();
        }
        if headers.is_empty() {
            return Ok(());
        }
        let length: usize = headers.get("content-length").context("no content-length")?.parse()?;
        anyhow::ensure!(length <= MAX_BODY, "{length} bytes");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let body = String::from_utf8(body)?;
        let status = status.load(Ordering::SeqCst);
        if status == 200
            && let Ok(mut taken) = taken.lock()
        {
            taken.push(Taken { headers, body });
        }
        stream.get_mut().write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await?;
    }
}
