//! The published model of the API as tables: operations, members, constraints, errors. Everything
//! that reads or writes the API goes by these tables, and `tests/model_drift.rs` walks them against
//! the model file that the AWS clients are generated from.
//!
//! Not here: what Colibri checks beyond the model ([`crate::check`]).

mod common;
mod connectors;
mod core;
mod errors;
mod images;
mod microvms;
mod operations;
mod tags;

use std::sync::OnceLock;

use regex::Regex;

pub use core::{CORE_ERRORS, CORE_OPERATIONS};
pub use operations::{Api, ERRORS, ErrorModel, ErrorName, OPERATIONS, Operation, OperationModel};

/// Every operation of both APIs.
pub fn operations() -> impl Iterator<Item = &'static OperationModel> {
    OPERATIONS.iter().chain(CORE_OPERATIONS)
}

/// A regular expression that a whole value must match.
#[derive(Debug)]
pub struct Pattern {
    text: &'static str,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    const fn new(text: &'static str) -> Self {
        Self {
            text,
            compiled: OnceLock::new(),
        }
    }

    /// The expression as the model writes it.
    #[must_use]
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// Whether all of `value` matches. An expression that does not compile matches nothing; a test
    /// proves that each one compiles.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        self.compiled().is_some_and(|regex| regex.is_match(value))
    }

    fn compiled(&self) -> Option<&Regex> {
        // The service's own dialect takes `\d` and `\s` as ASCII; this crate's takes them as Unicode.
        let ascii = || {
            self.text
                .replace(r"\d", "[0-9]")
                .replace(r"\s", r"[\t\n\x0B\f\r ]")
        };
        self.compiled
            .get_or_init(|| Regex::new(&format!("^(?:{})$", ascii())).ok())
            .as_ref()
    }
}

/// Constraints of a string.
#[derive(Debug)]
pub struct TextRule {
    /// Least number of characters.
    pub min: Option<usize>,
    /// Greatest number of characters.
    pub max: Option<usize>,
    /// What the whole string must match.
    pub pattern: Option<&'static Pattern>,
}

/// Type of a value, with its constraints.
#[derive(Debug)]
pub enum Shape {
    /// A string.
    Text(TextRule),
    /// A string out of a fixed set.
    Choice(&'static [&'static str]),
    /// A 32-bit integer.
    Integer {
        /// Least value.
        min: Option<i64>,
        /// Greatest value.
        max: Option<i64>,
    },
    /// A 64-bit integer.
    Long {
        /// Least value.
        min: Option<i64>,
    },
    /// A truth value.
    Boolean,
    /// Seconds since the Unix epoch, as a number.
    Timestamp,
    /// A point in time as ISO 8601 writes it, a string.
    IsoTimestamp,
    /// A list.
    List {
        /// Type of each element.
        element: &'static Shape,
        /// Least number of elements.
        min: Option<usize>,
        /// Greatest number of elements.
        max: Option<usize>,
    },
    /// A map with string keys.
    Map {
        /// Type of each key.
        key: &'static Shape,
        /// Type of each value.
        value: &'static Shape,
        /// Least number of entries.
        min: Option<usize>,
        /// Greatest number of entries.
        max: Option<usize>,
    },
    /// An object.
    Structure(&'static [Member]),
    /// An object with exactly one of its members set.
    Union(&'static [Member]),
}

impl Shape {
    /// Members of a structure or union; none for any other type.
    #[must_use]
    pub fn members(&self) -> &'static [Member] {
        match self {
            Self::Structure(members) | Self::Union(members) => members,
            _ => &[],
        }
    }
}

/// Where a member travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// In the JSON body, under the member's name.
    Body,
    /// In the path, as the label of the member's name.
    Path,
    /// In the query, under this key.
    Query(&'static str),
    /// In this header.
    Header(&'static str),
}

/// Member of a structure or union.
#[derive(Debug)]
pub struct Member {
    /// Name in the model and in JSON.
    pub name: &'static str,
    /// Type.
    pub shape: &'static Shape,
    /// Whether it must be there.
    pub required: bool,
    /// Where it travels.
    pub location: Location,
}

const fn member(name: &'static str, shape: &'static Shape) -> Member {
    Member {
        name,
        shape,
        required: false,
        location: Location::Body,
    }
}

impl Member {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn in_path(mut self) -> Self {
        self.location = Location::Path;
        self
    }

    const fn in_query(mut self, key: &'static str) -> Self {
        self.location = Location::Query(key);
        self
    }

    const fn in_header(mut self, name: &'static str) -> Self {
        self.location = Location::Header(name);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{Shape, operations};

    #[test]
    fn every_pattern_compiles() {
        fn walk(shape: &Shape) {
            match shape {
                Shape::Text(rule) => {
                    if let Some(pattern) = rule.pattern {
                        assert!(pattern.compiled().is_some(), "{}", pattern.text());
                    }
                }
                Shape::List { element, .. } => walk(element),
                Shape::Map { key, value, .. } => {
                    walk(key);
                    walk(value);
                }
                Shape::Structure(members) | Shape::Union(members) => {
                    members.iter().for_each(|member| walk(member.shape));
                }
                _ => {}
            }
        }
        for model in operations() {
            walk(model.input);
            model.output.into_iter().for_each(walk);
        }
    }

    #[test]
    fn digits_and_spaces_of_a_pattern_are_ascii() {
        assert!(super::common::NO_WHITESPACE.matches("a\u{a0}b"));
        assert!(!super::common::NO_WHITESPACE.matches("a\tb"));
        let resource = "arn:aws:lambda:us-east-1:000000000000:microvm-image:a";
        assert!(super::common::TAGGABLE_PATTERN.matches(resource));
        assert!(!super::common::TAGGABLE_PATTERN.matches(&resource.replace('0', "\u{0660}")));
        assert!(!super::common::TAGGABLE_PATTERN.matches(&format!("{resource}\n")));
    }
}
