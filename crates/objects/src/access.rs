//! What is asked of every operation once its signature holds: that its caller may do it, and that it
//! wants nothing that this endpoint would silently leave out.

use std::sync::Arc;

use http::{Extensions, HeaderMap, Uri};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::Credentials;
use s3s::dto::{
    CopyObjectInput, CopySource, DeleteObjectsInput, ListObjectsInput, ListObjectsV2Input,
    UploadPartCopyInput,
};
use s3s::{S3Request, S3Result, s3_error};

use crate::callers::{
    Callers, ObjectCall, Peer, SessionFault, action_of, arn_of, bucket_arn, object_arn, permit,
};
use crate::seen::Witness;
use crate::settings::Settings;

/// Refuses what is not allowed, and what cannot be kept.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) settings: Arc<Settings>,
    pub(crate) callers: Arc<dyn Callers>,
}

/// Keys that a caller may not delete, for the operation that deletes several: the others are deleted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Undeletable(pub(crate) Vec<(String, String)>);

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
        let Some(credentials) = cx.credentials().cloned() else {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        };
        self.check_session_token(&credentials, cx.headers(), cx.uri())?;
        Witness::sees(cx);
        if let Some(action) = action_of(cx.s3_op().name()) {
            let resource = arn_of(cx.s3_path());
            let call = call(&credentials, cx.extensions_mut(), action, resource);
            permit(self.callers.as_ref(), &call)?;
        }
        check_owner(cx.headers(), &self.settings.account_id)?;
        check_features(cx.headers())?;
        check_version(cx.uri())?;
        cx.s3_path().get_object_key().map_or(Ok(()), check_key)
    }

    async fn list_objects(&self, request: &mut S3Request<ListObjectsInput>) -> S3Result<()> {
        let input = &request.input;
        let max_keys = input.max_keys;
        self.permit_list(
            request,
            &input.bucket,
            &input.prefix,
            &input.delimiter,
            max_keys,
        )
    }

    async fn list_objects_v2(&self, request: &mut S3Request<ListObjectsV2Input>) -> S3Result<()> {
        let input = &request.input;
        let max_keys = input.max_keys;
        self.permit_list(
            request,
            &input.bucket,
            &input.prefix,
            &input.delimiter,
            max_keys,
        )
    }

    async fn copy_object(&self, request: &mut S3Request<CopyObjectInput>) -> S3Result<()> {
        self.permit_source(request, &request.input.copy_source)
    }

    async fn upload_part_copy(&self, request: &mut S3Request<UploadPartCopyInput>) -> S3Result<()> {
        self.permit_source(request, &request.input.copy_source)
    }

    async fn delete_objects(&self, request: &mut S3Request<DeleteObjectsInput>) -> S3Result<()> {
        let credentials = signed_by(request)?;
        let mut undeletable = Undeletable::default();
        let input = &request.input;
        for object in &input.delete.objects {
            let resource = object_arn(&input.bucket, &object.key);
            let call = call(
                credentials,
                &request.extensions,
                "s3:DeleteObject".into(),
                resource,
            );
            if let Err(message) = self.callers.permits(&call) {
                undeletable.0.push((object.key.clone(), message));
            }
        }
        if let [(_, message), ..] = &undeletable.0[..]
            && undeletable.0.len() == input.delete.objects.len()
        {
            return Err(s3_error!(AccessDenied, "{message}"));
        }
        request.extensions.insert(undeletable);
        Ok(())
    }
}

impl Access {
    fn check_session_token(
        &self,
        credentials: &Credentials,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> S3Result<()> {
        let invalid = || {
            s3_error!(
                InvalidToken,
                "The provided token is malformed or otherwise invalid."
            )
        };
        let header = headers.get_all("x-amz-security-token").iter();
        let header = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let query = query.filter(|(name, _)| name.eq_ignore_ascii_case("x-amz-security-token"));
        let given: Vec<String> = header
            .chain(query.map(|(_, value)| value.into_owned()))
            .collect();
        let token = match &given[..] {
            [] => None,
            [only] => Some(only.as_str()),
            _ => return Err(invalid()),
        };
        let checked = self.callers.check_session(&credentials.access_key, token);
        checked.map_err(|fault| match fault {
            SessionFault::WrongToken => invalid(),
            SessionFault::Ended => s3_error!(ExpiredToken, "The provided token has expired."),
        })
    }

    fn permit_list<T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        prefix: &Option<String>,
        delimiter: &Option<String>,
        max_keys: Option<i32>,
    ) -> S3Result<()> {
        let mut call = call(
            signed_by(request)?,
            &request.extensions,
            "s3:ListBucket".to_owned(),
            bucket_arn(bucket),
        );
        let given = [
            ("s3:prefix", prefix.clone()),
            ("s3:delimiter", delimiter.clone()),
            ("s3:max-keys", max_keys.map(|most| most.to_string())),
        ];
        call.conditions = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        permit(self.callers.as_ref(), &call)
    }

    /// Whoever copies must be allowed to read. A source that is no object here is refused by the
    /// operation itself.
    fn permit_source<T>(&self, request: &S3Request<T>, source: &CopySource) -> S3Result<()> {
        let CopySource::Bucket { bucket, key, .. } = source else {
            return Ok(());
        };
        let resource = object_arn(bucket, key);
        let action = "s3:GetObject".to_owned();
        let call = call(signed_by(request)?, &request.extensions, action, resource);
        permit(self.callers.as_ref(), &call)
    }
}

fn signed_by<T>(request: &S3Request<T>) -> S3Result<&Credentials> {
    let unsigned = || s3_error!(AccessDenied, "Access Denied");
    request.credentials.as_ref().ok_or_else(unsigned)
}

fn call<'a>(
    credentials: &'a Credentials,
    extensions: &Extensions,
    action: String,
    resource: String,
) -> ObjectCall<'a> {
    ObjectCall {
        access_key_id: &credentials.access_key,
        action,
        resource,
        conditions: Vec::new(),
        peer: extensions.get::<Peer>().map(|peer| peer.0),
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
