//! What is asked of every operation once its signature holds: that it wants nothing that this
//! endpoint would silently leave out. Not for who may do what: a key that verifies may do everything.

use std::sync::Arc;

use http::{HeaderMap, Uri};
use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};

use crate::settings::Settings;

/// Refuses what cannot be kept.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) settings: Arc<Settings>,
}

/// Beginnings of headers that ask for something which this endpoint does not do, and what that is.
const UNSUPPORTED: [(&str, &str); 8] = [
    ("x-amz-server-side-encryption", "Encryption by the server"),
    (
        "x-amz-copy-source-server-side-encryption",
        "Encryption by the server",
    ),
    ("x-amz-object-lock-", "Object lock"),
    ("x-amz-bucket-object-lock-", "Object lock"),
    ("x-amz-tagging", "Tagging"),
    ("x-amz-website-redirect-location", "Website hosting"),
    ("x-amz-grant-", "Access control lists"),
    ("x-amz-write-offset-bytes", "Appending to objects"),
];

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        check_owner(cx.headers(), &self.settings.account_id)?;
        check_features(cx.headers())?;
        check_version(cx.uri())?;
        cx.s3_path().get_object_key().map_or(Ok(()), check_key)
    }
}

fn check_owner(headers: &HeaderMap, account_id: &str) -> S3Result<()> {
    let names = [
        "x-amz-expected-bucket-owner",
        "x-amz-source-expected-bucket-owner",
    ];
    let ours = names
        .iter()
        .filter_map(|name| headers.get(*name))
        .all(|owner| owner.as_bytes() == account_id.as_bytes());
    if ours {
        Ok(())
    } else {
        Err(s3_error!(AccessDenied, "Access Denied"))
    }
}

fn check_features(headers: &HeaderMap) -> S3Result<()> {
    for name in headers.keys() {
        let asked = UNSUPPORTED
            .iter()
            .find(|(start, _)| name.as_str().starts_with(start));
        // The directive of a copy says what to do with tags; none is copied, as none is there.
        if let Some((_, feature)) = asked
            && name != "x-amz-tagging-directive"
        {
            return Err(s3_error!(
                NotImplemented,
                "{feature} ({name}) is not supported here"
            ));
        }
    }
    let value = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    if value("x-amz-storage-class").is_some_and(|class| class != "STANDARD") {
        return Err(s3_error!(
            InvalidStorageClass,
            "Only the storage class STANDARD is supported here"
        ));
    }
    let harmless = [None, Some("private"), Some("bucket-owner-full-control")];
    if !harmless.contains(&value("x-amz-acl")) {
        return Err(s3_error!(
            NotImplemented,
            "Access control lists are not supported here: objects are private"
        ));
    }
    Ok(())
}

fn check_version(uri: &Uri) -> S3Result<()> {
    let other = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.strip_prefix("versionId="))
        .any(|version| !version.is_empty() && version != "null");
    if other {
        return Err(s3_error!(
            NotImplemented,
            "Object versions are not supported here"
        ));
    }
    Ok(())
}

/// XML 1.0 has no way to write these characters, so an object whose key has one could not be listed.
fn check_key(key: &str) -> S3Result<()> {
    let unwritable = |character: char| matches!(character, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    if key.contains(unwritable) {
        return Err(s3_error!(
            InvalidArgument,
            "The object key contains a control character, which an XML listing cannot carry"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn a_promise_that_cannot_be_kept_is_refused() {
        for (name, value) in [
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-tagging", "a=b"),
            ("x-amz-acl", "public-read"),
            ("x-amz-storage-class", "GLACIER"),
        ] {
            assert!(check_features(&headers(name, value)).is_err(), "{name}");
        }
        assert!(check_features(&headers("x-amz-acl", "private")).is_ok());
        assert!(check_features(&headers("x-amz-tagging-directive", "COPY")).is_ok());
    }

    #[test]
    fn another_account_owns_nothing_here() {
        let headers = headers("x-amz-expected-bucket-owner", "111111111111");
        assert!(check_owner(&headers, "000000000000").is_err());
        assert!(check_owner(&headers, "111111111111").is_ok());
    }

    #[test]
    fn keys_that_a_listing_cannot_carry_are_refused() {
        assert!(check_key("a\0b").is_err());
        assert!(check_key("../é\t\n/").is_ok());
    }
}
