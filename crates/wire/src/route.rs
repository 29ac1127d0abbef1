//! From method and path to operation. Labels are one segment each and are decoded once; a path that
//! fits no operation exactly fits none.

use percent_encoding::percent_decode_str;

use crate::model::{Operation, operations};

/// An operation with the decoded labels of its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub(crate) operation: Operation,
    pub(crate) labels: Vec<(&'static str, String)>,
}

impl Route {
    /// The operation that `method` on `path` asks for. `path` is as it came, still encoded, without
    /// its query.
    #[must_use]
    pub fn find(method: &str, path: &str) -> Option<Self> {
        operations()
            .filter(|model| model.method == method)
            .find_map(|model| {
                let labels = labels(model.uri, path)?;
                Some(Self {
                    operation: model.operation,
                    labels,
                })
            })
    }

    /// Which operation it is.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// A decoded label of the path, by its name in the model.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(label, _)| *label == name)
            .map(|(_, value)| value.as_str())
    }
}

fn labels(template: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut wanted = template.split('/');
    let mut given = path.split('/');
    let mut labels = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(labels),
            (Some(wanted), Some(given)) => match label_name(wanted) {
                Some(name) => labels.push((name, decoded(given)?)),
                None if wanted == given => {}
                None => return None,
            },
            _ => return None,
        }
    }
}

fn label_name(segment: &'static str) -> Option<&'static str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

fn decoded(segment: &str) -> Option<String> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    (!text.is_empty()).then(|| text.into_owned())
}

/// Decoded pairs of a query, in the order given. A plus sign is a space, as the signature's
/// canonical form takes it.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Route, query_pairs};
    use crate::model::{Operation, operations};

    #[test]
    fn every_operation_is_found_by_its_own_path() {
        for model in operations() {
            let path = model.uri.replace(['{', '}'], "");
            let route = Route::find(model.method, &path).expect(model.uri);
            assert_eq!(route.operation(), model.operation);
        }
    }

    #[test]
    fn an_arn_is_one_decoded_label() {
        let path = "/2025-09-09/microvm-images/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Amicrovm-image%3Aa/versions/1.0";
        let route = Route::find("GET", path).expect("a route");
        assert_eq!(route.operation(), Operation::GetMicrovmImageVersion);
        assert_eq!(
            route.label("imageIdentifier"),
            Some("arn:aws:lambda:us-east-1:000000000000:microvm-image:a")
        );
        assert_eq!(route.label("imageVersion"), Some("1.0"));
    }

    #[test]
    fn a_label_is_decoded_once_only() {
        let route = Route::find("GET", "/2025-09-09/microvms/a%252Fb").expect("a route");
        assert_eq!(route.label("microvmIdentifier"), Some("a%2Fb"));
    }

    #[test]
    fn what_fits_no_operation_exactly_fits_none() {
        for (method, path) in [
            ("GET", "/"),
            ("GET", ""),
            ("GET", "*"),
            ("get", "/2025-09-09/microvms"),
            ("PATCH", "/2025-09-09/microvms"),
            ("GET", "/2025-09-09/microvms/"),
            ("GET", "//2025-09-09/microvms"),
            ("GET", "/2025-09-09/./microvms"),
            ("GET", "/2025-09-09/microvms/a/b/c"),
            ("GET", "/2025-09-09/microvms/%ff"),
            ("GET", "/2025-09-08/microvms"),
        ] {
            assert_eq!(Route::find(method, path), None, "{method} {path}");
        }
    }

    #[test]
    fn a_query_keeps_repeated_keys_and_splits_at_the_first_equals_sign() {
        let pairs = query_pairs("tagKeys=a%20b&tagKeys=c%26d&nextToken=ab==&flag");
        let expected = [
            ("tagKeys", "a b"),
            ("tagKeys", "c&d"),
            ("nextToken", "ab=="),
            ("flag", ""),
        ];
        assert_eq!(
            pairs,
            expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }
}
