//! Where an artifact lies.

use std::fmt;

/// A text that is no `s3://` address; `Display` is what the service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>")]
pub struct NotAnS3Uri;

/// `s3://<bucket>/<key>`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct S3Uri {
    bucket: String,
    key: String,
}

impl S3Uri {
    /// Reads an address. The key is taken as it stands: nothing in it is decoded.
    ///
    /// # Errors
    /// [`NotAnS3Uri`] for another scheme, a bucket name that S3 does not allow, or a key that is
    /// empty or longer than 1024 bytes.
    pub fn parse(text: &str) -> Result<Self, NotAnS3Uri> {
        let (bucket, key) = text
            .strip_prefix("s3://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or(NotAnS3Uri)?;
        if !is_bucket_name(bucket) || key.is_empty() || key.len() > 1024 {
            return Err(NotAnS3Uri);
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Key, without the slash before it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// The rules of S3's general purpose buckets.
fn is_bucket_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| plain(byte) || byte == b'-' || byte == b'.')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().next_back().is_some_and(plain)
        && !name.contains("..")
}

impl fmt::Display for S3Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::S3Uri;

    #[test]
    fn only_a_bucket_and_a_key_make_an_address() {
        let uri = S3Uri::parse("s3://my-bucket/apps/a b.zip").expect("an address");
        assert_eq!((uri.bucket(), uri.key()), ("my-bucket", "apps/a b.zip"));
        for text in [
            "000000000000.dkr.ecr.us-east-1.amazonaws.com/app:1",
            "https://my-bucket.s3.amazonaws.com/a.zip",
            "s3://my-bucket",
            "s3://my-bucket/",
            "s3:///a.zip",
            "s3://../a.zip",
            "s3://My-Bucket/a.zip",
        ] {
            assert!(S3Uri::parse(text).is_err(), "{text}");
        }
    }
}
