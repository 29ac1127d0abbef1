//! New access keys, session tokens and unique ids, from the system's random bytes.

use rand::TryRngCore;
use rand::rand_core::OsError;
use rand::rngs::OsRng;

use crate::credential::Secret;

/// Alphabet of an access key id after its prefix (base 32, as AWS makes them).
const ID_ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Alphabet of a secret access key (base 64).
const SECRET_ALPHABET: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Characters of a session token: 384 bits.
const TOKEN_LENGTH: usize = 64;

/// An access key id with this prefix (`AKIA` of a lasting key, `ASIA` of a temporary one), and its
/// secret.
///
/// # Errors
/// When the system gives no random bytes.
pub fn access_key(prefix: &str) -> Result<(String, Secret), OsError> {
    Ok((unique_id(prefix)?, Secret::new(secret(40)?)))
}

/// A new id with this prefix: `AIDA` of a user, `AROA` of a role.
///
/// # Errors
/// When the system gives no random bytes.
pub fn unique_id(prefix: &str) -> Result<String, OsError> {
    Ok(format!("{prefix}{}", random::<32>(16, ID_ALPHABET)?))
}

pub(crate) fn session_token() -> Result<Secret, OsError> {
    Ok(Secret::new(secret(TOKEN_LENGTH)?))
}

fn secret(length: usize) -> Result<String, OsError> {
    random::<64>(length, SECRET_ALPHABET)
}

/// Both alphabets' sizes divide 256: every character is equally likely.
fn random<const SIZE: usize>(length: usize, alphabet: &[u8; SIZE]) -> Result<String, OsError> {
    let mut bytes = vec![0_u8; length];
    OsRng.try_fill_bytes(&mut bytes)?;
    let character = |byte: &u8| char::from(alphabet[usize::from(*byte) % SIZE]);
    Ok(bytes.iter().map(character).collect())
}
