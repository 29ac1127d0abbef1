//! The names of condition operators, taken apart: `ForAllValues:StringNotEqualsIfExists`.

use super::error::PolicyError;

/// How values of a key that has several are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantifier {
    /// Without a prefix.
    None,
    /// `ForAnyValue:`
    Any,
    /// `ForAllValues:`
    All,
}

/// An order of numbers or times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    pub(super) fn holds<T: PartialOrd>(self, given: &T, expected: &T) -> bool {
        match self {
            Self::Equal => given == expected,
            Self::Less => given < expected,
            Self::LessOrEqual => given <= expected,
            Self::Greater => given > expected,
            Self::GreaterOrEqual => given >= expected,
        }
    }
}

/// What is compared, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Text {
        like: bool,
        ignore_case: bool,
    },
    Number(Order),
    Date(Order),
    Boolean,
    Address,
    Arn,
    /// Whether the key is absent.
    Null,
}

/// An operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operator {
    pub(super) quantifier: Quantifier,
    pub(super) comparison: Comparison,
    /// `Not`: holds when no expected value compares.
    pub(super) negated: bool,
    /// `IfExists`: holds when the key is absent.
    pub(super) if_exists: bool,
}

impl Operator {
    pub(super) fn parse(name: &str) -> Result<Self, PolicyError> {
        let (quantifier, rest) = if let Some(rest) = name.strip_prefix("ForAnyValue:") {
            (Quantifier::Any, rest)
        } else if let Some(rest) = name.strip_prefix("ForAllValues:") {
            (Quantifier::All, rest)
        } else {
            (Quantifier::None, name)
        };
        let (base, if_exists) = match rest.strip_suffix("IfExists") {
            Some(base) => (base, true),
            None => (rest, false),
        };
        let (comparison, negated) =
            comparison(base).ok_or_else(|| PolicyError::Operator(name.to_owned()))?;
        if comparison == Comparison::Null && (if_exists || quantifier != Quantifier::None) {
            return Err(PolicyError::Operator(name.to_owned()));
        }
        Ok(Self {
            quantifier,
            comparison,
            negated,
            if_exists,
        })
    }
}

fn comparison(base: &str) -> Option<(Comparison, bool)> {
    let text = |like, ignore_case| Comparison::Text { like, ignore_case };
    Some(match base {
        "StringEquals" => (text(false, false), false),
        "StringNotEquals" => (text(false, false), true),
        "StringEqualsIgnoreCase" => (text(false, true), false),
        "StringNotEqualsIgnoreCase" => (text(false, true), true),
        "StringLike" => (text(true, false), false),
        "StringNotLike" => (text(true, false), true),
        "Bool" => (Comparison::Boolean, false),
        "IpAddress" => (Comparison::Address, false),
        "NotIpAddress" => (Comparison::Address, true),
        // IAM gives the two pairs the same meaning.
        "ArnEquals" | "ArnLike" => (Comparison::Arn, false),
        "ArnNotEquals" | "ArnNotLike" => (Comparison::Arn, true),
        "Null" => (Comparison::Null, false),
        _ => return ordered(base),
    })
}

fn ordered(base: &str) -> Option<(Comparison, bool)> {
    let (of, order): (fn(Order) -> Comparison, &str) =
        if let Some(order) = base.strip_prefix("Numeric") {
            (Comparison::Number, order)
        } else {
            (Comparison::Date, base.strip_prefix("Date")?)
        };
    let (order, negated) = match order {
        "Equals" => (Order::Equal, false),
        "NotEquals" => (Order::Equal, true),
        "LessThan" => (Order::Less, false),
        "LessThanEquals" => (Order::LessOrEqual, false),
        "GreaterThan" => (Order::Greater, false),
        "GreaterThanEquals" => (Order::GreaterOrEqual, false),
        _ => return None,
    };
    Some((of(order), negated))
}
