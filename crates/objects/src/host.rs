//! Where the bucket of a request is named: in its path, or in its host for clients that were given a
//! host name as endpoint. Nothing else is read from the host.

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};
use s3s::path::check_bucket_name;

/// `<bucket>.<domain>`, and any other host for path-style requests.
#[derive(Debug)]
pub(crate) struct BucketHost {
    pub(crate) domains: Vec<String>,
}

impl BucketHost {
    fn bucket<'a>(&self, host: &'a str) -> Option<&'a str> {
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        self.domains
            .iter()
            .find_map(|domain| name.strip_suffix(domain.as_str())?.strip_suffix('.'))
            .filter(|bucket| check_bucket_name(bucket))
    }
}

impl S3Host for BucketHost {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let plain = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            Some(bucket) => plain.with_bucket(bucket),
            None => plain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_subdomain_of_our_own_names_a_bucket() {
        let host = BucketHost {
            domains: vec!["localhost".into()],
        };
        assert_eq!(host.bucket("code.localhost:4570"), Some("code"));
        assert_eq!(
            host.bucket("my.dotted.bucket.localhost"),
            Some("my.dotted.bucket")
        );
        for plain in [
            "localhost:4570",
            "localhost",
            "colibri.example.com:4570",
            "s3.localhost",
        ] {
            assert_eq!(host.bucket(plain), None, "{plain}");
        }
    }
}
