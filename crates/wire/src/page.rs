//! Tokens that continue a list. They carry the place to go on from, and a code that binds it to the
//! list and its filters: a client cannot make one up, or use one list's token on another.

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::api_error::ApiError;

/// First byte of a token, so that its form can change.
const FORM: u8 = 1;
const CODE_LENGTH: usize = 32;
/// Longest token that is looked at, bytes; those made here are far shorter.
const MAX_TOKEN_LENGTH: usize = 4096;

/// Secret of a server under which its tokens are made.
#[derive(Clone)]
pub struct PageKey([u8; 32]);

impl PageKey {
    /// A key of random bytes. Tokens of another key are refused.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The token that continues `list` after `cursor`.
    #[must_use]
    pub fn token(&self, list: &ListScope<'_>, cursor: &str) -> String {
        let mut token = vec![FORM];
        token.extend_from_slice(self.code(list, cursor).finalize().into_bytes().as_slice());
        token.extend_from_slice(cursor.as_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The cursor of a token that was made for `list`.
    ///
    /// # Errors
    /// [`ApiError::Validation`] for any other token.
    pub fn cursor(&self, list: &ListScope<'_>, token: &str) -> Result<String, ApiError> {
        self.read(list, token).ok_or_else(|| {
            ApiError::validation(
                "Invalid nextToken: it does not continue this list with these filters",
            )
        })
    }

    fn read(&self, list: &ListScope<'_>, token: &str) -> Option<String> {
        if token.len() > MAX_TOKEN_LENGTH {
            return None;
        }
        // Some clients pad what they pass on.
        let engine = if token.ends_with('=') {
            &URL_SAFE
        } else {
            &URL_SAFE_NO_PAD
        };
        let bytes = engine.decode(token).ok()?;
        let (form, rest) = bytes.split_first()?;
        let (code, cursor) = rest.split_at_checked(CODE_LENGTH)?;
        let cursor = std::str::from_utf8(cursor).ok()?;
        (*form == FORM && self.code(list, cursor).verify_slice(code).is_ok())
            .then(|| cursor.to_owned())
    }

    fn code(&self, list: &ListScope<'_>, cursor: &str) -> Hmac<Sha256> {
        // HMAC pads a short key with zeros to the hash's block of 64 bytes (RFC 2104).
        let mut block = [0; 64];
        block[..self.0.len()].copy_from_slice(&self.0);
        let mut code = Hmac::<Sha256>::new(&block.into());
        let parts = [list.name].into_iter().chain(
            list.filters
                .iter()
                .flat_map(|(name, value)| [*name, *value]),
        );
        // Each part goes in with its length: no two lists read the same.
        for part in parts.chain([cursor]) {
            code.update(&(part.len() as u64).to_be_bytes());
            code.update(part.as_bytes());
        }
        code
    }
}

/// What a token is good for.
#[derive(Debug, Clone, Copy)]
pub struct ListScope<'a> {
    /// The list's operation.
    pub name: &'a str,
    /// Every filter that is set, the listed parent included, always in the same order.
    pub filters: &'a [(&'a str, &'a str)],
}

#[cfg(test)]
mod tests {
    use super::{ListScope, PageKey};

    const LIST: ListScope<'_> = ListScope {
        name: "ListMicrovms",
        filters: &[("imageVersion", "1.0")],
    };

    #[test]
    fn a_token_leads_back_to_its_cursor_padded_or_not() {
        let key = PageKey::new([1; 32]);
        for cursor in ["", "a", "ab", "abc", "microvm-x"] {
            let token = key.token(&LIST, cursor);
            assert!(
                token
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            );
            assert_eq!(key.cursor(&LIST, &token).as_deref(), Ok(cursor));
            let padding = "=".repeat((4 - token.len() % 4) % 4);
            assert_eq!(
                key.cursor(&LIST, &(token + &padding)).as_deref(),
                Ok(cursor)
            );
        }
    }

    #[test]
    fn a_token_is_good_for_its_own_list_filters_and_key_only() {
        let key = PageKey::new([1; 32]);
        let token = key.token(&LIST, "a");
        let others = [
            ListScope {
                name: "ListMicrovmImages",
                ..LIST
            },
            ListScope {
                filters: &[],
                ..LIST
            },
            ListScope {
                filters: &[("imageVersion", "1.")],
                ..LIST
            },
            ListScope {
                filters: &[("imageVersion", "2.0")],
                ..LIST
            },
        ];
        for other in others {
            assert!(key.cursor(&other, &token).is_err(), "{other:?}");
        }
        assert!(PageKey::new([2; 32]).cursor(&LIST, &token).is_err());
    }

    #[test]
    fn a_changed_or_made_up_token_is_refused() {
        let key = PageKey::new([1; 32]);
        let token = key.token(&LIST, "a");
        for index in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(key.cursor(&LIST, &changed).is_err(), "{changed}");
        }
        for made_up in ["", "=", "AQ", "not base64!", &"A".repeat(10_000)] {
            assert!(key.cursor(&LIST, made_up).is_err());
        }
    }
}
