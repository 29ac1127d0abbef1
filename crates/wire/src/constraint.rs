//! Holds a JSON value against a shape of the model: wrong types are refused, unknown members and
//! nulls dropped, and every broken constraint is reported in the words that the service uses.

use serde_json::{Map, Value};

use crate::api_error::ApiError;
use crate::model::{Member, Shape, TextRule};

/// Violations that one answer lists. A request that breaks more gets the count and the first ones,
/// so that a hostile body cannot make a long answer.
const LISTED_VIOLATIONS: usize = 20;

/// Returns `input` with nothing in it but members of `shape`.
///
/// # Errors
/// [`ApiError::Validation`] for a wrong JSON type (the first one met) or for broken constraints (all
/// of them).
pub(crate) fn conform(shape: &Shape, input: Value) -> Result<Value, ApiError> {
    let mut violations = Violations::default();
    let value = violations
        .walk("", shape, input)
        .map_err(|mistyped| ApiError::validation(mistyped.0))?;
    violations.verdict()?;
    Ok(value)
}

/// A value of the wrong JSON type, in a sentence for the client.
struct Mistyped(String);

impl Mistyped {
    fn new(path: &str, wanted: &str, got: &Value) -> Self {
        let got = match got {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "another number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        if path.is_empty() {
            return Self(format!(
                "The request body could not be read: it must be {wanted}, not {got}"
            ));
        }
        Self(format!(
            "The request could not be read: '{path}' must be {wanted}, not {got}"
        ))
    }
}

#[derive(Default)]
struct Violations {
    count: usize,
    listed: Vec<String>,
}

impl Violations {
    fn add(&mut self, path: &str, constraint: &str) {
        self.count += 1;
        if self.listed.len() < LISTED_VIOLATIONS {
            self.listed.push(format!(
                "Value at '{path}' failed to satisfy constraint: {constraint}"
            ));
        }
    }

    fn verdict(self) -> Result<(), ApiError> {
        if self.count == 0 {
            return Ok(());
        }
        let plural = if self.count == 1 { "" } else { "s" };
        let list = self.listed.join("; ");
        Err(ApiError::validation(format!(
            "{} validation error{plural} detected: {list}",
            self.count
        )))
    }

    fn walk(&mut self, path: &str, shape: &Shape, value: Value) -> Result<Value, Mistyped> {
        match shape {
            Shape::List { element, min, max } => {
                let Value::Array(elements) = value else {
                    return Err(Mistyped::new(path, "a list", &value));
                };
                self.size(path, elements.len(), *min, *max);
                self.elements(path, element, elements)
            }
            Shape::Map {
                key,
                value: entry,
                min,
                max,
            } => {
                let Value::Object(entries) = value else {
                    return Err(Mistyped::new(path, "an object", &value));
                };
                self.size(path, entries.len(), *min, *max);
                self.entries(path, key, entry, entries)
            }
            Shape::Structure(members) => {
                let Value::Object(object) = value else {
                    return Err(Mistyped::new(path, "an object", &value));
                };
                self.members(path, members, object).map(Value::Object)
            }
            Shape::Union(members) => {
                let Value::Object(object) = value else {
                    return Err(Mistyped::new(path, "an object", &value));
                };
                self.union(path, members, object)
            }
            scalar => {
                for constraint in broken(path, scalar, &value)? {
                    self.add(path, &constraint);
                }
                Ok(value)
            }
        }
    }

    fn size(&mut self, path: &str, length: usize, min: Option<usize>, max: Option<usize>) {
        for constraint in broken_length(length, min, max) {
            self.add(path, &constraint);
        }
    }

    /// Elements that are scalars are reported together, under the list's own name, as the service
    /// does; objects each under their place.
    fn elements(
        &mut self,
        path: &str,
        shape: &Shape,
        elements: Vec<Value>,
    ) -> Result<Value, Mistyped> {
        let mut kept = Vec::with_capacity(elements.len());
        let mut spoilt = false;
        for (index, element) in elements.into_iter().enumerate() {
            if is_scalar(shape) {
                spoilt |= !broken(path, shape, &element)?.is_empty();
                kept.push(element);
            } else {
                kept.push(self.walk(&format!("{path}.{}.member", index + 1), shape, element)?);
            }
        }
        if spoilt {
            self.add(
                path,
                &format!(
                    "Member must satisfy constraint: [{}]",
                    all_constraints(shape).join(", ")
                ),
            );
        }
        Ok(Value::Array(kept))
    }

    /// Every map of the model has scalar values.
    fn entries(
        &mut self,
        path: &str,
        key: &Shape,
        value: &Shape,
        entries: Map<String, Value>,
    ) -> Result<Value, Mistyped> {
        let (mut bad_key, mut bad_value) = (false, false);
        for (name, entry) in &entries {
            bad_key |= !broken(path, key, &Value::String(name.clone()))?.is_empty();
            bad_value |= !broken(path, value, entry)?.is_empty();
        }
        if bad_key {
            let rules = all_constraints(key).join(", ");
            self.add(
                path,
                &format!("Map keys must satisfy constraint: [{rules}]"),
            );
        }
        if bad_value {
            let rules = all_constraints(value).join(", ");
            self.add(
                path,
                &format!("Map value must satisfy constraint: [{rules}]"),
            );
        }
        Ok(Value::Object(entries))
    }

    fn members(
        &mut self,
        path: &str,
        members: &[Member],
        mut object: Map<String, Value>,
    ) -> Result<Map<String, Value>, Mistyped> {
        let mut kept = Map::new();
        for member in members {
            let path = join(path, member.name);
            match object.remove(member.name).filter(|value| !value.is_null()) {
                Some(value) => {
                    kept.insert(
                        member.name.to_owned(),
                        self.walk(&path, member.shape, value)?,
                    );
                }
                None if member.required => self.add(&path, "Member must not be null"),
                None => {}
            }
        }
        Ok(kept)
    }

    fn union(
        &mut self,
        path: &str,
        members: &[Member],
        object: Map<String, Value>,
    ) -> Result<Value, Mistyped> {
        let kept = self.members(path, members, object)?;
        if kept.len() == 1 {
            return Ok(Value::Object(kept));
        }
        let names: Vec<&str> = members.iter().map(|member| member.name).collect();
        Err(Mistyped(format!(
            "The request could not be read: '{path}' must set exactly one of [{}], not {}",
            names.join(", "),
            kept.len(),
        )))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn is_scalar(shape: &Shape) -> bool {
    !matches!(
        shape,
        Shape::List { .. } | Shape::Map { .. } | Shape::Structure(_) | Shape::Union(_)
    )
}

/// The constraints of a scalar that `value` breaks.
fn broken(path: &str, shape: &Shape, value: &Value) -> Result<Vec<String>, Mistyped> {
    match shape {
        Shape::Text(rule) => {
            let text = value
                .as_str()
                .ok_or_else(|| Mistyped::new(path, "a string", value))?;
            Ok(broken_text(rule, text))
        }
        Shape::Choice(choices) => {
            let text = value
                .as_str()
                .ok_or_else(|| Mistyped::new(path, "a string", value))?;
            let known = choices.contains(&text);
            Ok(if known {
                Vec::new()
            } else {
                all_constraints(shape)
            })
        }
        Shape::Integer { min, max } => {
            let number = value
                .as_i64()
                .filter(|number| i32::try_from(*number).is_ok())
                .ok_or_else(|| Mistyped::new(path, "a 32-bit integer", value))?;
            Ok(broken_value(number, *min, *max))
        }
        Shape::Long { min } => {
            let number = value
                .as_i64()
                .ok_or_else(|| Mistyped::new(path, "a 64-bit integer", value))?;
            Ok(broken_value(number, *min, None))
        }
        Shape::Boolean if !value.is_boolean() => Err(Mistyped::new(path, "a boolean", value)),
        Shape::Timestamp if !value.is_number() => {
            Err(Mistyped::new(path, "a number of seconds", value))
        }
        Shape::IsoTimestamp if !value.is_string() => {
            Err(Mistyped::new(path, "a time as ISO 8601 writes it", value))
        }
        _ => Ok(Vec::new()),
    }
}

fn broken_text(rule: &TextRule, text: &str) -> Vec<String> {
    let mut broken = broken_length(text.chars().count(), rule.min, rule.max);
    if let Some(pattern) = rule.pattern.filter(|pattern| !pattern.matches(text)) {
        broken.push(pattern_constraint(pattern.text()));
    }
    broken
}

fn broken_length(length: usize, min: Option<usize>, max: Option<usize>) -> Vec<String> {
    let over = max.filter(|max| length > *max).map(max_length);
    let under = min.filter(|min| length < *min).map(min_length);
    over.into_iter().chain(under).collect()
}

fn broken_value(number: i64, min: Option<i64>, max: Option<i64>) -> Vec<String> {
    let over = max.filter(|max| number > *max).map(max_value);
    let under = min.filter(|min| number < *min).map(min_value);
    over.into_iter().chain(under).collect()
}

/// Every constraint of a scalar, as it is listed for an element of a list or map.
fn all_constraints(shape: &Shape) -> Vec<String> {
    match shape {
        Shape::Text(rule) => {
            let pattern = rule
                .pattern
                .map(|pattern| pattern_constraint(pattern.text()));
            rule.max
                .map(max_length)
                .into_iter()
                .chain(rule.min.map(min_length))
                .chain(pattern)
                .collect()
        }
        Shape::Choice(choices) => vec![format!(
            "Member must satisfy enum value set: [{}]",
            choices.join(", ")
        )],
        Shape::Integer { min, max } => max
            .map(max_value)
            .into_iter()
            .chain(min.map(min_value))
            .collect(),
        _ => Vec::new(),
    }
}

fn max_length(max: usize) -> String {
    format!("Member must have length less than or equal to {max}")
}

fn min_length(min: usize) -> String {
    format!("Member must have length greater than or equal to {min}")
}

fn max_value(max: i64) -> String {
    format!("Member must have value less than or equal to {max}")
}

fn min_value(min: i64) -> String {
    format!("Member must have value greater than or equal to {min}")
}

fn pattern_constraint(text: &str) -> String {
    format!("Member must satisfy regular expression pattern: {text}")
}
