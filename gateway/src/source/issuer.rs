//! The bundle as an issuer's Server API gives it, polled. Works with SPIRE servers.

use std::time::Duration;

use async_trait::async_trait;
use federation_specs::bundle::Bundle;
use service_kit::{BoxError, clock::SharedClock};

use super::BundleSource;
use crate::issuer_client::IssuerClient;

/// Asks an issuer for its bundle at a fixed interval.
#[derive(Debug)]
pub struct IssuerSource {
    client: IssuerClient,
    interval: Duration,
    clock: SharedClock,
    answered: bool,
}

impl IssuerSource {
    /// Polls the issuer every `interval`.
    pub fn new(client: IssuerClient, interval: Duration, clock: SharedClock) -> Self {
        Self { client, interval, clock, answered: false }
    }
}

#[async_trait]
impl BundleSource for IssuerSource {
    fn describe(&self) -> String {
        format!("issuer {}", self.client.address())
    }

    async fn next(&mut self) -> Result<Bundle, BoxError> {
        if self.answered {
            self.answered = false;
            self.clock.sleep(self.interval).await;
        }
        let bundle = self.client.own_bundle().await?;
        self.answered = true;
        Ok(bundle)
    }
}
