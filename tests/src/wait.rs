//! Waiting for a condition instead of for a time.

use std::{future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// How long anything may take that should take seconds. Generous: it only ends a test that fails anyway.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks again and again until `probe` gives a value, at most [`LIMIT`]. The error names `what` and the last failure.
pub async fn until<T, F, Fut>(what: &str, probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    until_within(what, LIMIT, probe).await
}

/// The same with a limit of its own.
pub async fn until_within<T, F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    let mut last = None;
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            match last {
                Some(error) => bail!("{what}: not within {limit:?}; last: {error:#}"),
                None => bail!("{what}: not within {limit:?}, and not one look came back"),
            }
        }
        sleep(PAUSE).await;
    }
}
