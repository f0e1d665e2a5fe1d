//! A receiver of webhooks on real TLS, which verifies signatures by itself.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::hmac;
use axum::body::{Body, to_bytes};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Setup;

/// What the receiver answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    /// That status so many times, 200 from then on.
    Fail(u16, usize),
    Redirect(String),
    Hang,
    Hangup,
    Endless,
    RetryAfter(u64),
}

/// What was posted.
#[derive(Debug, Clone)]
pub struct Received {
    pub id: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// What it was answered with.
    pub status: u16,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    /// Which of these secrets signed it, in the order of the signatures.
    pub fn signed_by(&self, secrets: &[&str]) -> Vec<usize> {
        let timestamp = self.headers["webhook-timestamp"].to_str().unwrap();
        let age = time::OffsetDateTime::now_utc().unix_timestamp() - timestamp.parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "sent {age} s ago");
        let text = [self.id.as_bytes(), timestamp.as_bytes(), &self.body].join(&b'.');
        let signatures = self.headers["webhook-signature"].to_str().unwrap().split(' ');
        let signer = |signature: &str| {
            let signature = BASE64.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            let verifies = |secret: &&str| {
                let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
                hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), &text, &signature).is_ok()
            };
            secrets.iter().position(verifies).expect("a known secret")
        };
        signatures.map(signer).collect()
    }
}

#[derive(Clone)]
pub struct Receiver {
    address: std::net::SocketAddr,
    answer: Arc<Mutex<Answer>>,
    received: Arc<Mutex<Vec<Received>>>,
}

pub fn secret(byte: u8) -> String {
    format!("whsec_{}", BASE64.encode([byte; 32]))
}

impl Receiver {
    pub async fn start(setup: &Setup, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(answer)),
            received: Arc::default(),
        };
        let config = setup.web.server_config();
        let accepting = receiver.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = TlsAcceptor::from(Arc::clone(&config));
                let receiver = accepting.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let receiver = receiver.clone();
                        async move { receiver.answer(request).await }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        receiver
    }

    /// Adds a webhook for it to the configuration, signed with `secret(7)`.
    pub fn configure(&self, setup: &mut Setup, name: &str, events: &[&str]) {
        let secret_file = setup.file(&format!("{name}.secret"));
        std::fs::write(&secret_file, secret(7)).unwrap();
        std::fs::write(setup.file("web-ca.pem"), setup.web.ca_pem()).unwrap();
        let webhook = json!({
            "name": name, "url": self.url(), "secret_file": secret_file, "events": events, "timeout": "1s",
            "ca_file": setup.file("web-ca.pem"), "allow_addresses": ["127.0.0.1"],
        });
        let webhooks = setup.config.as_object_mut().unwrap().entry("webhooks").or_insert_with(|| json!([]));
        webhooks.as_array_mut().unwrap().push(webhook);
    }

    pub fn url(&self) -> String {
        format!("https://{}/hooks/secret-path?token=t", self.address)
    }

    pub fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// Everything posted.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// What was answered 2xx, in order.
    pub fn taken(&self) -> Vec<Received> {
        self.received().into_iter().filter(|item| item.status == 200).collect()
    }

    /// The types of what was answered 2xx, in order.
    pub fn kinds(&self) -> Vec<String> {
        self.taken().iter().map(Received::kind).collect()
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/hooks/secret-path"));
        let (parts, body) = request.into_parts();
        let body = to_bytes(Body::new(body), 20_000).await.unwrap().to_vec();
        let answer = {
            let mut answer = self.answer.lock().unwrap();
            let now = answer.clone();
            if let Answer::Fail(_, left) = &mut *answer {
                *left -= 1;
                if *left == 0 {
                    *answer = Answer::Status(200);
                }
            }
            now
        };
        let status = match &answer {
            Answer::Status(status) | Answer::Fail(status, _) => *status,
            Answer::Redirect(_) => 307,
            Answer::RetryAfter(_) => 429,
            Answer::Hang | Answer::Hangup => 0,
            Answer::Endless => 500,
        };
        let id = parts.headers["webhook-id"].to_str().unwrap().to_owned();
        self.received.lock().unwrap().push(Received { id, headers: parts.headers, body, status });
        let builder = Response::builder();
        Ok(match answer {
            Answer::Status(status) | Answer::Fail(status, _) => {
                builder.status(status).body(Body::from("no,\r\nnot now")).unwrap()
            }
            Answer::Redirect(location) => {
                builder.status(307).header(header::LOCATION, location).body(Body::empty()).unwrap()
            }
            Answer::RetryAfter(seconds) => {
                builder.status(429).header(header::RETRY_AFTER, seconds).body(Body::empty()).unwrap()
            }
            Answer::Hang => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                Response::new(Body::empty())
            }
            Answer::Hangup => return Err(std::io::Error::other("hang up")),
            Answer::Endless => {
                let chunks = tokio_stream::iter(std::iter::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 8192])));
                builder.status(StatusCode::INTERNAL_SERVER_ERROR).body(Body::from_stream(chunks)).unwrap()
            }
        })
    }
}
