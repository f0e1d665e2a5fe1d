//! One attempt to deliver one message.

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use service_kit::{
    clock::SharedClock,
    fetch::{AddressKind, FetchError, PostAnswer, Poster},
    tls::WebRoots,
};
use tokio::{io::AsyncReadExt as _, sync::Mutex};

use super::{
    event::Message,
    signature::{SecretError, Secrets},
};
use crate::{
    refresh::clients::{ClientError, Clients},
    settings::WebhookSettings,
};

/// Largest file of certificate authorities.
const MAX_CA_FILE_BYTES: u64 = 1024 * 1024;

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Nothing to sign with.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The file of certificate authorities cannot be read.
    #[error("ca_file {path} cannot be read: {reason}")]
    CaFile {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The file of certificate authorities cannot be used.
    #[error("{0}; check ca_file")]
    Client(#[from] ClientError),
    /// The receiver is where nothing is sent.
    #[error(
        "{url} leads to {address}, {kind} address, to which nothing is sent unless it is allowed; if the receiver is \
         meant to be there, add {address} or its network to allow_addresses of the webhook"
    )]
    Address {
        /// Scheme, host and port of the URL.
        url: String,
        /// The address.
        address: IpAddr,
        /// What is special about it.
        kind: AddressKind,
    },
    /// The receiver could not be asked.
    #[error(transparent)]
    Exchange(FetchError),
    /// The receiver wants no messages any more.
    #[error("the receiver answered 410 Gone: it wants no messages any more; remove it, or restart to try again")]
    Gone,
    /// The receiver redirects.
    #[error("the receiver answered {0}; redirects are not followed, configure the URL it should end at")]
    Redirect(StatusCode),
    /// The receiver did not take it.
    #[error("the receiver answered {status}{}", quoted(beginning))]
    Refused {
        /// The status.
        status: StatusCode,
        /// The beginning of what it said.
        beginning: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
}

fn quoted(beginning: &str) -> String {
    if beginning.is_empty() { String::new() } else { format!(": {beginning:?}") }
}

impl From<FetchError> for SendError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Address { url, address, kind } => Self::Address { url, address, kind },
            error => Self::Exchange(error),
        }
    }
}

impl SendError {
    /// How long the receiver asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The way to one receiver.
#[derive(Debug)]
pub struct Sender {
    settings: WebhookSettings,
    clients: Arc<Clients>,
    clock: SharedClock,
    /// Made when first needed, and anew after a failure, because a file may have been replaced.
    client: Mutex<Option<Poster>>,
}

impl Sender {
    /// The way to the receiver of `settings`.
    pub fn new(settings: WebhookSettings, clients: Arc<Clients>, clock: SharedClock) -> Self {
        Self { settings, clients, clock, client: Mutex::new(None) }
    }

    /// What it was made of.
    pub fn settings(&self) -> &WebhookSettings {
        &self.settings
    }

    /// Sends `message`, signed with the time of now, and waits for the answer.
    ///
    /// # Errors
    /// [`SendError`] unless the answer was 2xx.
    pub async fn send(&self, message: &Message) -> Result<(), SendError> {
        let mut client = self.client.lock().await;
        let outcome = self.attempt(&mut client, message).await;
        if outcome.is_err() {
            *client = None;
        }
        outcome
    }

    async fn attempt(&self, client: &mut Option<Poster>, message: &Message) -> Result<(), SendError> {
        let secrets = Secrets::read(&self.settings.secret_file).await?;
        let poster = match client {
            Some(poster) => poster,
            None => client.insert(self.connect().await?),
        };
        let mut headers = secrets.headers(&message.id, self.clock.now(), message.body.as_bytes());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Bytes::from(message.body.clone());
        judge(poster.post(&self.settings.url, headers, body).await?)
    }

    async fn connect(&self) -> Result<Poster, SendError> {
        let roots = match &self.settings.ca_file {
            None => WebRoots::System,
            Some(path) => WebRoots::Pem(read_pem(path).await?),
        };
        Ok(self.clients.poster(&roots, &self.settings.allow_addresses, self.settings.timeout)?)
    }
}

async fn read_pem(path: &Path) -> Result<Vec<u8>, SendError> {
    let failed = |reason: String| SendError::CaFile { path: path.display().to_string(), reason };
    let mut pem = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(|error| failed(error.to_string()))?;
    file.take(MAX_CA_FILE_BYTES + 1).read_to_end(&mut pem).await.map_err(|error| failed(error.to_string()))?;
    if pem.len() as u64 > MAX_CA_FILE_BYTES {
        return Err(failed(format!("it is larger than {MAX_CA_FILE_BYTES} bytes")));
    }
    Ok(pem)
}

fn judge(answer: PostAnswer) -> Result<(), SendError> {
    let PostAnswer { status, retry_after, beginning } = answer;
    match status {
        _ if status.is_success() => Ok(()),
        StatusCode::GONE => Err(SendError::Gone),
        _ if status.is_redirection() => Err(SendError::Redirect(status)),
        _ => Err(SendError::Refused { status, beginning, retry_after }),
    }
}
