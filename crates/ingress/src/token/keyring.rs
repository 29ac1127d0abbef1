//! The keys that seal tokens: one that seals, and the ones before it that still open what they
//! sealed. Kept in one file that only the daemon's user may read.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{KeyRingError, MAX_LIFETIME};
use crate::durable;

/// Bytes of an AES-256 key.
const KEY_BYTES: usize = 32;

/// A key and its name.
pub(super) struct Key {
    pub(super) kid: Uuid,
    pub(super) aead: LessSafeKey,
    secret: [u8; KEY_BYTES],
    created: u64,
    /// When another key took its place.
    retired: Option<u64>,
}

/// The keys in use.
pub(super) struct KeyRing {
    current: Key,
    retired: Vec<Key>,
}

impl KeyRing {
    /// A ring with one new key.
    pub(super) fn generate(now: SystemTime) -> Result<Self, KeyRingError> {
        Ok(Self {
            current: Key::generate(now)?,
            retired: Vec::new(),
        })
    }

    /// The ring in a file; `None` when there is no such file.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, KeyRingError> {
        let read = durable::read(path);
        let Some(text) = read.map_err(|source| KeyRingError::io("read", path, source))? else {
            return Ok(None);
        };
        let damaged = || KeyRingError::Damaged {
            path: path.to_owned(),
        };
        let file: RingFile = serde_json::from_str(&text).map_err(|_| damaged())?;
        let mut keys = file
            .keys
            .iter()
            .map(Key::from_file)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(damaged)?;
        let current = keys
            .iter()
            .position(|key| key.retired.is_none())
            .ok_or_else(damaged)?;
        let current = keys.swap_remove(current);
        if keys.iter().any(|key| key.retired.is_none()) {
            return Err(damaged());
        }
        Ok(Some(Self {
            current,
            retired: keys,
        }))
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), KeyRingError> {
        let keys = self.keys().map(Key::to_file).collect();
        let text =
            serde_json::to_vec_pretty(&RingFile { keys }).map_err(|_| KeyRingError::Crypto)?;
        durable::replace(path, &text, durable::SECRET)
            .map_err(|source| KeyRingError::io("write", path, source))
    }

    /// The ring with a new current key; retired keys stay while a token of theirs may live.
    pub(super) fn rotated(self, now: SystemTime) -> Result<Self, KeyRingError> {
        let now_seconds = seconds(now);
        let mut previous = self.current;
        previous.retired = Some(now_seconds);
        let mut retired = self.retired;
        retired.push(previous);
        retired.retain(|key| {
            let since = now_seconds.saturating_sub(key.retired.unwrap_or(now_seconds));
            since <= MAX_LIFETIME.as_secs()
        });
        Ok(Self {
            current: Key::generate(now)?,
            retired,
        })
    }

    pub(super) fn current(&self) -> &Key {
        &self.current
    }

    pub(super) fn by_kid(&self, kid: Uuid) -> Option<&Key> {
        self.keys().find(|key| key.kid == kid)
    }

    /// How long the current key has been in use.
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        Duration::from_secs(seconds(now).saturating_sub(self.current.created))
    }

    /// A ring with the same keys.
    pub(super) fn duplicate(&self) -> Option<Self> {
        let retired = self
            .retired
            .iter()
            .map(|key| Key::from_file(&key.to_file()));
        Some(Self {
            current: Key::from_file(&self.current.to_file())?,
            retired: retired.collect::<Option<_>>()?,
        })
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.current).chain(&self.retired)
    }
}

impl Key {
    fn generate(now: SystemTime) -> Result<Self, KeyRingError> {
        let mut secret = [0; KEY_BYTES];
        rand::fill(&mut secret).map_err(|_| KeyRingError::Crypto)?;
        let unbound = UnboundKey::new(&AES_256_GCM, &secret).map_err(|_| KeyRingError::Crypto)?;
        Ok(Self {
            kid: Uuid::new_v4(),
            aead: LessSafeKey::new(unbound),
            secret,
            created: seconds(now),
            retired: None,
        })
    }

    fn to_file(&self) -> KeyFile {
        KeyFile {
            kid: self.kid,
            key: URL_SAFE_NO_PAD.encode(self.secret),
            created: self.created,
            retired: self.retired,
        }
    }

    fn from_file(file: &KeyFile) -> Option<Self> {
        let secret: [u8; KEY_BYTES] = URL_SAFE_NO_PAD.decode(&file.key).ok()?.try_into().ok()?;
        let unbound = UnboundKey::new(&AES_256_GCM, &secret).ok()?;
        Some(Self {
            kid: file.kid,
            aead: LessSafeKey::new(unbound),
            secret,
            created: file.created,
            retired: file.retired,
        })
    }
}

/// The file's content. Times are seconds since 1970.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingFile {
    keys: Vec<KeyFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    kid: Uuid,
    key: String,
    created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired: Option<u64>,
}

/// Seconds since 1970; 0 before that.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
