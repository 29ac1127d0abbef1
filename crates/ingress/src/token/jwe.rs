//! Seals and opens bytes as JWE compact serialization (RFC 7516 section 7.1), with the one
//! algorithm pair that tokens use: `dir` and `A256GCM`.
//!
//! Not a JOSE library, on purpose. Of the known ones, `josekit` knows JWE but links OpenSSL, beside
//! the AWS-LC that TLS already uses here, and `jsonwebtoken` knows signatures only. What is needed is
//! one fixed algorithm pair, with nothing for a token's own header to negotiate; the cipher itself is
//! AWS-LC's.

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::keyring::{Key, KeyRing};

/// Bytes of the authentication tag (RFC 7518 section 5.3).
const TAG_BYTES: usize = 16;

/// The protected header. Anything more in it (`zip`, `crit`, ...) is refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProtectedHeader {
    kid: Uuid,
    alg: Algorithm,
    enc: Encryption,
}

#[derive(Serialize, Deserialize)]
enum Algorithm {
    #[serde(rename = "dir")]
    Direct,
}

#[derive(Serialize, Deserialize)]
enum Encryption {
    A256GCM,
}

/// Seals `plaintext` under `key`; `None` when the system gives no randomness.
///
/// The IV is random. NIST SP 800-38D section 8.3 allows 2^32 of them under one key; at 50 tokens a
/// second that is 2.7 years, and keys are rotated much earlier.
pub(super) fn seal(key: &Key, plaintext: &[u8]) -> Option<String> {
    let header = ProtectedHeader {
        kid: key.kid,
        alg: Algorithm::Direct,
        enc: Encryption::A256GCM,
    };
    let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).ok()?);
    let mut iv = [0; NONCE_LEN];
    rand::fill(&mut iv).ok()?;
    let mut sealed = plaintext.to_vec();
    let tag = key
        .aead
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(iv),
            Aad::from(header.as_bytes()),
            &mut sealed,
        )
        .ok()?;
    let [iv, sealed, tag] =
        [&iv[..], &sealed, tag.as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
    Some(format!("{header}..{iv}.{sealed}.{tag}"))
}

/// The plaintext of `token`; `None` whatever is wrong with it.
pub(super) fn open(ring: &KeyRing, token: &str) -> Option<Vec<u8>> {
    let mut parts = token.split('.');
    let [header, encrypted_key, iv, sealed, tag] = std::array::from_fn(|_| parts.next());
    if parts.next().is_some() || !encrypted_key?.is_empty() {
        return None;
    }
    let header = header?;
    let protected: ProtectedHeader = serde_json::from_slice(&decode(header)?).ok()?;
    let key = ring.by_kid(protected.kid)?;
    let iv: [u8; NONCE_LEN] = decode(iv?)?.try_into().ok()?;
    let mut opened = decode(sealed?)?;
    let tag = decode(tag?)?;
    if tag.len() != TAG_BYTES {
        return None;
    }
    opened.extend_from_slice(&tag);
    let length = key
        .aead
        .open_in_place(
            Nonce::assume_unique_for_key(iv),
            Aad::from(header.as_bytes()),
            &mut opened,
        )
        .ok()?
        .len();
    opened.truncate(length);
    Some(opened)
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}
