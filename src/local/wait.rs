//! Waiting for a condition, with a deadline and the last reason it did not hold.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};

/// How often a condition is looked at again.
const INTERVAL: Duration = Duration::from_millis(40);

/// Calls `condition` until it gives a value. Fails after `limit`, naming `what` and the condition's last error.
pub(crate) async fn until<T, F, Fut>(what: &str, limit: Duration, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let mut last = None;
    let attempt = async {
        loop {
            match condition().await {
                Ok(value) => return value,
                Err(reason) => last = Some(reason),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(value) => Ok(value),
        Err(_) => Err(match last {
            Some(reason) => reason.context(format!("waited {} s for {what}", limit.as_secs())),
            None => anyhow!("waited {} s for {what}: no answer", limit.as_secs()),
        }),
    }
}
