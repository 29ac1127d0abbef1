//! `nextToken` of lists: the key of the last item given, as text that is opaque to clients.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use colibri_logs::LogsError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::LogsFault;

/// The token of a key.
pub(crate) fn write<T: Serialize>(key: &T) -> Result<String, LogsFault> {
    let json = serde_json::to_vec(key).map_err(|_| LogsFault::Interrupted)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

/// The key of a token.
pub(crate) fn read<T: DeserializeOwned>(token: &str) -> Result<T, LogsFault> {
    let json = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|_| LogsError::InvalidToken)?;
    Ok(serde_json::from_slice(&json).map_err(|_| LogsError::InvalidToken)?)
}
