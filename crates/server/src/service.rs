//! Which service a request is for: the one that its signature names; where nobody signed it, the one
//! whose requests look like it, so that it is refused in words that its client reads.

use colibri_iam::service_of;
use colibri_objects::is_s3_request;
use http::header::CONTENT_TYPE;
use http::request::Parts;

/// First segments of the paths of the MicroVM API.
const API_PATHS: [&str; 4] = ["2025-09-09", "2026-04-04", "2017-03-31", "colibri"];

/// The service, by the name that signatures give it.
pub(crate) fn service(parts: &Parts) -> String {
    if is_s3_request(parts) {
        return "s3".to_owned();
    }
    service_of(parts).unwrap_or_else(|| by_form(parts).to_owned())
}

fn by_form(parts: &Parts) -> &'static str {
    let target = parts.headers.get("x-amz-target");
    if target.is_some_and(|target| target.as_bytes().starts_with(b"Logs_")) {
        return "logs";
    }
    if speaks_query(parts) {
        return "sts";
    }
    let path = parts.uri.path().trim_start_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    if API_PATHS.contains(&first) {
        "lambda"
    } else {
        "s3"
    }
}

/// Whether the client sends forms and reads XML: the query protocol of STS, IAM, EC2 and others.
pub(crate) fn speaks_query(parts: &Parts) -> bool {
    let content_type = parts.headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| {
        value
            .as_bytes()
            .starts_with(b"application/x-www-form-urlencoded")
    })
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::request::Parts;

    use super::service;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn a_signature_says_which_service_it_is_for_whatever_the_request_looks_like() {
        for name in ["lambda", "s3", "logs", "sts", "ec2"] {
            let signature = format!(
                "AWS4-HMAC-SHA256 Credential=AKIA/20261122/us-east-1/{name}/aws4_request, SignedHeaders=host, Signature=00"
            );
            let headers = [
                ("authorization", signature.as_str()),
                ("content-type", "application/x-www-form-urlencoded"),
            ];
            assert_eq!(
                service(&request("POST", "/2025-09-09/microvms", &headers)),
                name
            );
        }
    }

    #[test]
    fn an_unsigned_request_is_told_by_its_form() {
        let form = [(
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )];
        let target = [("x-amz-target", "Logs_20140328.DescribeLogGroups")];
        for (parts, expected) in [
            (request("POST", "/", &form), "sts"),
            (request("POST", "/", &target), "logs"),
            (request("GET", "/2025-09-09/microvms", &[]), "lambda"),
            (request("GET", "/bucket/key", &[]), "s3"),
            (request("GET", "/", &[]), "s3"),
        ] {
            assert_eq!(service(&parts), expected, "{}", parts.uri);
        }
    }
}
