//! Records that must be made in the end: what they say has happened, and without them it would count as half
//! done until the next start.

use std::future::Future;
use std::time::Duration;

use colibri_store::StoreError;
use tokio::time::sleep;

use crate::failure::chain;

/// First pause before a record is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Returns when the record is made, or when what it is about is not there any more: false then.
pub(crate) async fn until_recorded<F>(what: &str, attempt: impl Fn() -> F) -> bool
where
    F: Future<Output = Result<(), StoreError>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Ok(()) => return true,
            Err(StoreError::Missing { .. }) => return false,
            Err(error) => {
                tracing::error!(error = %chain(&error), "could not record {what}; trying again");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
