//! What of requests and answers may be written down: the members that the model knows, without those
//! that it calls sensitive (`RunHookPayload`, `EnvironmentVariableValue`, `AuthTokenValue`).

use serde_json::{Map, Value};

use crate::model::{Operation, Shape};
use crate::request::gather;
use crate::route::Route;

/// Members of requests and answers whose every value is sensitive, at whatever depth below them.
const SENSITIVE: [&str; 3] = ["runHookPayload", "environmentVariables", "authToken"];

/// The members of a request, `hidden` in the place of what nobody may read. `None` where it cannot be read.
#[must_use]
pub fn parameters(route: &Route, query: Option<&str>, body: &[u8], hidden: &str) -> Option<Value> {
    let shape = route.operation().model().input;
    let query = query.unwrap_or_default();
    let members = gather(shape.members(), route.clone(), query, body).ok()?;
    Some(known(shape, Value::Object(members), hidden)).filter(has_members)
}

/// The members of an answer, in the same way. `None` where there are none.
#[must_use]
pub fn elements(operation: Operation, body: &[u8], hidden: &str) -> Option<Value> {
    let shape = operation.model().output?;
    let members = serde_json::from_slice(body).ok()?;
    Some(known(shape, members, hidden)).filter(has_members)
}

fn has_members(value: &Value) -> bool {
    value.as_object().is_some_and(|members| !members.is_empty())
}

fn known(shape: &Shape, value: Value, hidden: &str) -> Value {
    match (shape, value) {
        (Shape::Structure(members) | Shape::Union(members), Value::Object(mut given)) => {
            let mut kept = Map::new();
            for member in *members {
                if let Some((name, value)) = given.remove_entry(member.name) {
                    let sensitive = SENSITIVE.contains(&member.name);
                    let value = if sensitive {
                        cover(value, hidden)
                    } else {
                        known(member.shape, value, hidden)
                    };
                    kept.insert(name, value);
                }
            }
            Value::Object(kept)
        }
        (Shape::List { element, .. }, Value::Array(items)) => items
            .into_iter()
            .map(|item| known(element, item, hidden))
            .collect(),
        // What is no structure by the model and comes as one is not what the model means.
        (_, Value::Object(members)) if !matches!(shape, Shape::Map { .. }) => {
            cover(Value::Object(members), hidden)
        }
        (_, value) => value,
    }
}

/// Names of a map may be read, values not.
fn cover(value: Value, hidden: &str) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .map(|(name, _)| (name, Value::String(hidden.to_owned())))
            .collect(),
        _ => Value::String(hidden.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{elements, parameters};
    use crate::model::Operation;
    use crate::route::Route;

    #[test]
    fn secrets_and_unknown_members_are_not_written_down() {
        let route = Route::find("POST", "/2025-09-09/microvms").unwrap();
        let body = json!({
            "imageIdentifier": "arn", "runHookPayload": "hunter2", "password": "hunter2",
            "idlePolicy": { "maxIdleDurationSeconds": 60, "password": "hunter2" },
        });
        let seen = parameters(&route, None, body.to_string().as_bytes(), "***").unwrap();
        let expected = json!({
            "imageIdentifier": "arn", "runHookPayload": "***",
            "idlePolicy": { "maxIdleDurationSeconds": 60 },
        });
        assert_eq!(seen, expected);

        let route = Route::find("POST", "/2025-09-09/microvm-images").unwrap();
        let body = json!({ "name": "a", "environmentVariables": { "KEY": "hunter2" } });
        let seen = parameters(&route, None, body.to_string().as_bytes(), "***").unwrap();
        assert_eq!(
            seen,
            json!({ "name": "a", "environmentVariables": { "KEY": "***" } })
        );
        let deep = json!({ "a": { "b": "hunter2" } });
        for odd in [
            json!({ "environmentVariables": "hunter2" }),
            json!({ "environmentVariables": ["hunter2"] }),
            json!({ "environmentVariables": deep }),
            json!({ "name": deep }),
            json!({ "codeArtifact": { "uri": deep, "other": "hunter2" } }),
        ] {
            let body = odd.to_string();
            let seen = parameters(&route, None, body.as_bytes(), "***").unwrap();
            assert!(!seen.to_string().contains("hunter2"), "{seen}");
        }
    }

    #[test]
    fn a_token_that_was_made_is_not_written_down() {
        let body = json!({ "authToken": { "X-aws-proxy-auth": "hunter2" } }).to_string();
        let seen = elements(Operation::CreateMicrovmAuthToken, body.as_bytes(), "***").unwrap();
        assert_eq!(seen, json!({ "authToken": { "X-aws-proxy-auth": "***" } }));
        assert_eq!(elements(Operation::TerminateMicrovm, b"", "***"), None);
    }

    #[test]
    fn labels_and_the_query_are_parameters_too() {
        let route = Route::find("GET", "/2025-09-09/microvms/microvm-1").unwrap();
        let seen = parameters(&route, Some("other=hunter2"), b"", "***");
        assert_eq!(seen, Some(json!({ "microvmIdentifier": "microvm-1" })));
        let route = Route::find("GET", "/2025-09-09/microvms").unwrap();
        assert_eq!(parameters(&route, None, b"", "***"), None);
        let seen = parameters(&route, Some("maxResults=2"), b"", "***");
        assert_eq!(seen, Some(json!({ "maxResults": 2 })));
    }
}
