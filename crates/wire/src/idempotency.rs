//! Tells a repeated request from another one under the same client token.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// SHA-256 of a request's members but for its client token; equal requests have equal ones,
/// whatever order their members came in.
pub type Fingerprint = [u8; 32];

/// The fingerprint of a request.
///
/// # Errors
/// When the request cannot be written as JSON.
pub fn fingerprint<T: Serialize>(request: &T) -> Result<Fingerprint, serde_json::Error> {
    let mut value = serde_json::to_value(request)?;
    if let Value::Object(members) = &mut value {
        members.remove("clientToken");
        members.remove("ClientToken");
    }
    // The map of `Value` is sorted by key, so the text is canonical.
    Ok(Sha256::digest(value.to_string().as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::fingerprint;
    use serde_json::json;

    #[test]
    fn a_request_is_the_same_whatever_its_token_and_the_order_of_its_members() {
        let of = |value: serde_json::Value| fingerprint(&value).expect("JSON");
        let first = of(json!({"imageIdentifier": "a", "imageVersion": "1", "clientToken": "x"}));
        assert_eq!(
            first,
            of(json!({"imageVersion": "1", "imageIdentifier": "a"}))
        );
        assert_ne!(
            first,
            of(json!({"imageVersion": "2", "imageIdentifier": "a", "clientToken": "x"}))
        );
    }
}
