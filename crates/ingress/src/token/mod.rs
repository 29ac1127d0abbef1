//! Mints and verifies the tokens that open an endpoint.
//!
//! A token is opaque to clients: JWE compact serialization whose claims name the MicroVM, the ports,
//! the kind and the expiry. There is no list of tokens; what the claims say is all there is, and a
//! token cannot be revoked. Who may mint one is decided elsewhere.

mod jwe;
mod keyring;
mod ports;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use keyring::{KeyRing, seconds};
pub use ports::{AllowedPorts, PortRange};

/// The longest that a token may live: 60 minutes.
pub const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// The longest token, in characters, as the API's model bounds it.
pub const MAX_TOKEN_LENGTH: usize = 8000;

/// Age at which [`TokenMint::rotate_when_due`] replaces the key that seals tokens.
pub const KEY_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Lengths that claims are padded to, in bytes, so that a token's length tells nothing of the ports
/// that it opens. The first gives the 823 characters that AWS's tokens have; the last is what
/// [`MAX_TOKEN_LENGTH`] has room for.
const PADDED_LENGTHS: [usize; 5] = [511, 1023, 2047, 4095, 5892];

const ISSUER: &str = "colibri";

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// The application's ports.
    Endpoint,
    /// An interactive shell.
    Shell,
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The MicroVM that it opens.
    pub microvm_id: String,
    /// What it is for.
    pub kind: TokenKind,
    /// The ports that it opens; none for a shell.
    pub ports: AllowedPorts,
    /// When it was minted, to the second.
    pub issued_at: SystemTime,
    /// From when on it is refused, to the second.
    pub expires_at: SystemTime,
}

/// Claims as the token holds them (names from RFC 7519 where it has them).
#[derive(Serialize, Deserialize)]
struct SealedClaims {
    iss: String,
    sub: String,
    kind: TokenKind,
    ports: AllowedPorts,
    iat: u64,
    exp: u64,
}

/// Mints and verifies tokens with the keys of one data directory.
pub struct TokenMint {
    path: PathBuf,
    ring: RwLock<KeyRing>,
}

impl TokenMint {
    /// Opens the keys in `directory`, creating them on first use.
    ///
    /// # Errors
    /// When the key file cannot be read or written, or is damaged: it is then left alone.
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self, KeyRingError> {
        let path = directory.join("token-keys.json");
        let ring = match KeyRing::load(&path)? {
            Some(ring) => ring,
            None => {
                let ring = KeyRing::generate(now)?;
                ring.save(&path)?;
                ring
            }
        };
        Ok(Self {
            path,
            ring: RwLock::new(ring),
        })
    }

    /// A token for ports of a MicroVM's application.
    ///
    /// # Errors
    /// When the lifetime is 0 or above [`MAX_LIFETIME`], or the ports do not fit in a token.
    pub fn mint(
        &self,
        microvm_id: &str,
        ports: &AllowedPorts,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, MintError> {
        self.seal(
            microvm_id,
            TokenKind::Endpoint,
            ports.clone(),
            lifetime,
            now,
        )
    }

    /// A token for a shell in a MicroVM.
    ///
    /// # Errors
    /// When the lifetime is 0 or above [`MAX_LIFETIME`].
    pub fn mint_shell(
        &self,
        microvm_id: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, MintError> {
        self.seal(
            microvm_id,
            TokenKind::Shell,
            AllowedPorts::ranges([]),
            lifetime,
            now,
        )
    }

    /// What a token says, when it was sealed by this mint and has not expired.
    ///
    /// # Errors
    /// Says why for the log; a client is told the same in every case.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, TokenRefused> {
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(TokenRefused::Invalid);
        }
        let opened = {
            let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
            jwe::open(&ring, token).ok_or(TokenRefused::Invalid)?
        };
        let sealed: SealedClaims =
            serde_json::from_slice(&opened).map_err(|_| TokenRefused::Invalid)?;
        if sealed.iss != ISSUER {
            return Err(TokenRefused::Invalid);
        }
        if seconds(now) >= sealed.exp {
            return Err(TokenRefused::Expired);
        }
        Ok(Claims {
            microvm_id: sealed.sub,
            kind: sealed.kind,
            ports: sealed.ports,
            issued_at: UNIX_EPOCH + Duration::from_secs(sealed.iat),
            expires_at: UNIX_EPOCH + Duration::from_secs(sealed.exp),
        })
    }

    /// Seals with a new key from now on; tokens of the key before it stay valid until they expire.
    ///
    /// # Errors
    /// When the key file cannot be written: nothing changes then.
    pub fn rotate(&self, now: SystemTime) -> Result<(), KeyRingError> {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let rotated = ring.duplicate().ok_or(KeyRingError::Crypto)?.rotated(now)?;
        rotated.save(&self.path)?;
        *ring = rotated;
        Ok(())
    }

    /// Rotates when the current key is older than [`KEY_LIFETIME`]; says whether it was.
    ///
    /// # Errors
    /// As [`TokenMint::rotate`].
    pub fn rotate_when_due(&self, now: SystemTime) -> Result<bool, KeyRingError> {
        let age = self
            .ring
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .age(now);
        if age < KEY_LIFETIME {
            return Ok(false);
        }
        self.rotate(now).map(|()| true)
    }

    fn seal(
        &self,
        microvm_id: &str,
        kind: TokenKind,
        ports: AllowedPorts,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, MintError> {
        if lifetime.is_zero() || lifetime > MAX_LIFETIME {
            return Err(MintError::Lifetime {
                seconds: lifetime.as_secs(),
            });
        }
        let iat = seconds(now);
        let claims = SealedClaims {
            iss: ISSUER.to_owned(),
            sub: microvm_id.to_owned(),
            kind,
            ports,
            iat,
            exp: iat + lifetime.as_secs().max(1),
        };
        let mut plaintext = serde_json::to_vec(&claims).map_err(|_| MintError::Sealing)?;
        let padded = PADDED_LENGTHS
            .iter()
            .find(|&&length| length >= plaintext.len());
        // White space after the claims is still JSON: nothing has to be taken off again.
        plaintext.resize(*padded.ok_or(MintError::TooManyPorts)?, b' ');
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        jwe::seal(ring.current(), &plaintext).ok_or(MintError::Sealing)
    }
}

impl std::fmt::Debug for TokenMint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TokenMint")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Why a token does not count. The text is the same for all, so that it can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It is not a token of this mint, or was changed.
    #[error("the token is not valid")]
    Invalid,
    /// Its time is over.
    #[error("the token is not valid")]
    Expired,
}

/// Why a token was not minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The lifetime is out of bounds.
    #[error("a token lives for more than 0 and at most 3600 seconds, not {seconds}")]
    Lifetime {
        /// What was asked for.
        seconds: u64,
    },
    /// The ports do not fit.
    #[error("the allowed ports do not fit in a token; name ranges instead of single ports")]
    TooManyPorts,
    /// The cipher or the system's randomness failed.
    #[error("could not seal the token")]
    Sealing,
}

/// Why the keys of tokens could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// A file operation failed.
    #[error("could not {attempted} the token keys {path}")]
    Io {
        /// Read or write.
        attempted: &'static str,
        /// The key file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file does not hold keys.
    #[error(
        "the token keys {path} are damaged; remove the file to make new keys (tokens minted before are then refused)"
    )]
    Damaged {
        /// The key file.
        path: PathBuf,
    },
    /// No key could be made.
    #[error("could not make a token key: the system gave no randomness")]
    Crypto,
}

impl KeyRingError {
    fn io(attempted: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            attempted,
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests;
