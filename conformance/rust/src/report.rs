//! What is said of each thing that was tried: one line of JSON.

use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::json;

/// Whether a check passed, and why not.
pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Bound of every wait for the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one check; a failure never stops what comes after it.
pub async fn check(operation: &str, attempt: impl Future<Output = Outcome>) {
    let outcome = attempt.await;
    let detail = outcome.as_ref().err().map(|error| chain(error.as_ref()));
    let line = json!({
        "operation": operation,
        "client": "Rust",
        "passed": outcome.is_ok(),
        "detail": detail.unwrap_or_default(),
    });
    println!("{line}");
}

/// Two values that must be the same.
pub fn equal<T: Debug + PartialEq<U>, U: Debug>(what: &str, found: T, expected: U) -> Outcome {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?} instead of {expected:?}").into())
}

/// Something that must hold.
pub fn holds(what: &str, condition: bool) -> Outcome {
    if condition {
        return Ok(());
    }
    Err(what.into())
}

/// Polls, the only way to follow the API; the first value that there is.
pub async fn wait_for<T, F>(what: &str, condition: impl FnMut() -> F) -> Outcome<T>
where
    F: Future<Output = Outcome<Option<T>>>,
{
    wait_as_long(what, PATIENCE, condition).await
}

/// The same, with a bound of the caller's.
pub async fn wait_as_long<T, F>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> F,
) -> Outcome<T>
where
    F: Future<Output = Outcome<Option<T>>>,
{
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            return Err(format!("not within {patience:?}: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
