//! Who may sign requests, and what each operation needs to be allowed. Who is allowed what is decided
//! by whoever implements [`Callers`].

use std::net::IpAddr;

use s3s::S3Result;
use s3s::path::S3Path;
use s3s::s3_error;

/// Who may sign requests, and what they may do.
pub trait Callers: Send + Sync + 'static {
    /// The secret of an access key, of one that has ended too; `None` when there is no such key.
    fn secret_key(&self, access_key_id: &str) -> Option<String>;

    /// Whether a request of this key has the session token that it must have, or none where it must
    /// have none, and the key is still good.
    ///
    /// # Errors
    /// What stands against it.
    fn check_session(&self, access_key_id: &str, given: Option<&str>) -> Result<(), SessionFault>;

    /// Whether a call is allowed.
    ///
    /// # Errors
    /// What the client reads when it is not.
    fn permits(&self, call: &ObjectCall<'_>) -> Result<(), String>;
}

/// Why a key whose signature was right is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionFault {
    /// The session token is not the key's.
    WrongToken,
    /// Its time is over.
    Ended,
}

/// Address that a request comes from, in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// One thing that a request needs to be allowed.
#[derive(Debug, Clone)]
pub struct ObjectCall<'a> {
    /// Key that signed it.
    pub access_key_id: &'a str,
    /// `s3:GetObject`
    pub action: String,
    /// ARN of the bucket or object.
    pub resource: String,
    /// What conditions can ask of it: `s3:prefix`.
    pub conditions: Vec<(&'static str, String)>,
    /// Where it comes from.
    pub peer: Option<IpAddr>,
}

/// When an operation's permission is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    /// At once: this action on what the path names.
    Action(&'static str),
    /// When its input has been read: it names more than the path does.
    OfInput,
}

/// What each operation that is served needs.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("ListBuckets", Rule::Action("s3:ListAllMyBuckets")),
    ("CreateBucket", Rule::Action("s3:CreateBucket")),
    ("HeadBucket", Rule::Action("s3:ListBucket")),
    ("DeleteBucket", Rule::Action("s3:DeleteBucket")),
    ("GetBucketLocation", Rule::Action("s3:GetBucketLocation")),
    (
        "GetBucketVersioning",
        Rule::Action("s3:GetBucketVersioning"),
    ),
    ("ListObjects", Rule::OfInput),
    ("ListObjectsV2", Rule::OfInput),
    ("PutObject", Rule::Action("s3:PutObject")),
    ("GetObject", Rule::Action("s3:GetObject")),
    ("HeadObject", Rule::Action("s3:GetObject")),
    ("GetObjectTagging", Rule::Action("s3:GetObjectTagging")),
    // Reading the source is checked with the input.
    ("CopyObject", Rule::Action("s3:PutObject")),
    ("DeleteObject", Rule::Action("s3:DeleteObject")),
    ("DeleteObjects", Rule::OfInput),
    ("CreateMultipartUpload", Rule::Action("s3:PutObject")),
    ("UploadPart", Rule::Action("s3:PutObject")),
    ("UploadPartCopy", Rule::Action("s3:PutObject")),
    ("CompleteMultipartUpload", Rule::Action("s3:PutObject")),
    (
        "AbortMultipartUpload",
        Rule::Action("s3:AbortMultipartUpload"),
    ),
    ("ListParts", Rule::Action("s3:ListMultipartUploadParts")),
    (
        "ListMultipartUploads",
        Rule::Action("s3:ListBucketMultipartUploads"),
    ),
];

/// The action that an operation needs on what its path names; `None` when its input says more. One
/// that is not served needs the action of its own name.
pub(crate) fn action_of(operation: &str) -> Option<String> {
    match RULES.iter().find(|(name, _)| *name == operation) {
        Some((_, Rule::Action(action))) => Some((*action).to_owned()),
        Some((_, Rule::OfInput)) => None,
        None => Some(format!("s3:{operation}")),
    }
}

pub(crate) fn arn_of(path: &S3Path) -> String {
    match path {
        S3Path::Root => "arn:aws:s3:::*".to_owned(),
        S3Path::Bucket { bucket } => bucket_arn(bucket),
        S3Path::Object { bucket, key } => object_arn(bucket, key),
    }
}

pub(crate) fn bucket_arn(bucket: &str) -> String {
    format!("arn:aws:s3:::{bucket}")
}

pub(crate) fn object_arn(bucket: &str, key: &str) -> String {
    format!("arn:aws:s3:::{bucket}/{key}")
}

/// Asks, in the words of S3.
pub(crate) fn permit(callers: &dyn Callers, call: &ObjectCall<'_>) -> S3Result<()> {
    callers
        .permits(call)
        .map_err(|message| s3_error!(AccessDenied, "{message}"))
}

#[cfg(test)]
mod tests {
    use super::RULES;

    /// Operations as the methods that serve them are named.
    fn served() -> Vec<String> {
        let source = include_str!("api/mod.rs");
        let (_, methods) = source.split_once("impl S3 for Api {").unwrap();
        let methods = methods.split("async fn ").skip(1);
        methods
            .map(|method| {
                let name = method.split('(').next().unwrap_or_default();
                let capital = |word: &str| {
                    let (first, rest) = word.split_at(1);
                    first.to_uppercase() + rest
                };
                name.split('_').map(capital).collect()
            })
            .collect()
    }

    #[test]
    fn every_operation_that_is_served_has_a_rule_and_no_other_has() {
        let served = served();
        assert!(served.len() > 20, "{served:?}");
        let ruled: Vec<&str> = RULES.iter().map(|(name, _)| *name).collect();
        for name in &served {
            assert!(ruled.contains(&name.as_str()), "{name} has no rule");
        }
        for name in ruled {
            assert!(
                served.iter().any(|served| served == name),
                "{name} is not served"
            );
        }
    }
}
