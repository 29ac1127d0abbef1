//! Session tokens: the time of their end, sealed for one MicroVM. Nothing of them is kept.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rand::RngCore as _;
use sha2::Sha256;
use tokio::time::Instant;

/// Bytes of the end's time at the front of a token.
const TIME: usize = 8;

/// What tokens are sealed with, for as long as the daemon runs.
pub(crate) struct TokenKey {
    key: [u8; 32],
    /// Ends are milliseconds from here on: no correction of the wall clock moves them.
    origin: Instant,
}

impl TokenKey {
    pub(crate) fn random() -> Self {
        let mut key = [0; 32];
        rand::rng().fill_bytes(&mut key);
        Self {
            key,
            origin: Instant::now(),
        }
    }

    /// A token for this MicroVM, good for so long.
    pub(crate) fn mint(&self, microvm_id: &str, lifetime: Duration) -> String {
        let end = self.now().saturating_add(millis(lifetime)).to_be_bytes();
        let seal = self.seal(microvm_id, end).finalize().into_bytes();
        URL_SAFE_NO_PAD.encode([&end[..], &seal].concat())
    }

    /// Whether a token is this MicroVM's and good.
    pub(crate) fn opens(&self, microvm_id: &str, token: &[u8]) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(token) else {
            return false;
        };
        let Some((end, seal)) = bytes.split_first_chunk::<TIME>() else {
            return false;
        };
        let genuine = self.seal(microvm_id, *end).verify_slice(seal).is_ok();
        genuine && u64::from_be_bytes(*end) > self.now()
    }

    fn seal(&self, microvm_id: &str, end: [u8; TIME]) -> Hmac<Sha256> {
        let mut block = [0; 64];
        block[..self.key.len()].copy_from_slice(&self.key);
        let mut seal = Hmac::<Sha256>::new(&block.into());
        seal.update(&end);
        seal.update(microvm_id.as_bytes());
        seal
    }

    fn now(&self) -> u64 {
        millis(self.origin.elapsed())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::TokenKey;

    #[tokio::test(start_paused = true)]
    async fn a_token_opens_its_own_microvm_until_it_ends() {
        let key = TokenKey::random();
        let token = key.mint("microvm-1", Duration::from_secs(60));
        assert!(key.opens("microvm-1", token.as_bytes()));
        assert!(!key.opens("microvm-2", token.as_bytes()));
        assert!(!TokenKey::random().opens("microvm-1", token.as_bytes()));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!key.opens("microvm-1", token.as_bytes()));
    }

    #[tokio::test]
    async fn what_is_no_token_opens_nothing() {
        let key = TokenKey::random();
        let token = key.mint("m", Duration::from_secs(60));
        let longer = format!("{token}A");
        for forged in ["", "AAAA", &token[..token.len() - 2], &longer, "é"] {
            assert!(!key.opens("m", forged.as_bytes()), "{forged}");
        }
    }
}
