//! One condition of a statement: an operator, a key, and what its value is compared with.

use ipnet::IpNet;
use time::OffsetDateTime;

use super::document::Effect;
use super::error::PolicyError;
use super::operator::{Comparison, Operator, Order, Quantifier};
use super::pattern::{Fit, Pattern, Reading};
use super::request::Context;
use super::value;

/// A value that a condition expects.
#[derive(Debug, Clone, PartialEq)]
enum Expected {
    Text { pattern: Pattern, ignore_case: bool },
    Arn(Pattern),
    Number(Order, f64),
    Date(Order, OffsetDateTime),
    Boolean(bool),
    Network(IpNet),
    Absent(bool),
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    operator: Operator,
    /// In lower case.
    key: String,
    expected: Vec<Expected>,
}

impl Condition {
    /// `variables`: whether `${…}` has a meaning in this document.
    pub(super) fn parse(
        name: &str,
        key: &str,
        values: &[String],
        variables: bool,
    ) -> Result<Self, PolicyError> {
        let operator = Operator::parse(name)?;
        let refused = |value: &str, expected| PolicyError::Value {
            operator: name.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        };
        if values.is_empty() {
            return Err(refused("", "it must have one at least"));
        }
        let expected = values
            .iter()
            .map(|value| {
                expected(operator.comparison, value, variables)?
                    .ok_or_else(|| refused(value, form(operator.comparison)))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            operator,
            key: key.to_lowercase(),
            expected,
        })
    }

    /// Whether it holds. What cannot be told, for a variable without a value, is told so that the
    /// statement allows less or denies more.
    pub(super) fn holds(&self, context: &Context, effect: Effect) -> bool {
        let given = context.all(&self.key);
        if self.operator.comparison == Comparison::Null {
            let absent = Expected::Absent(given.is_none());
            return self.expected.contains(&absent);
        }
        let Some(given) = given else {
            let all = self.operator.quantifier == Quantifier::All;
            let any = self.operator.quantifier == Quantifier::Any;
            return self.operator.if_exists || all || (self.operator.negated && !any);
        };
        let one = |value: &String| self.satisfied(value, context, effect);
        match (self.operator.quantifier, self.operator.negated) {
            (Quantifier::All, _) | (Quantifier::None, true) => given.iter().all(one),
            (Quantifier::Any, _) | (Quantifier::None, false) => given.iter().any(one),
        }
    }

    /// Whether one value of the request does.
    fn satisfied(&self, given: &str, context: &Context, effect: Effect) -> bool {
        let fits: Vec<Fit> = self
            .expected
            .iter()
            .map(|expected| fit(expected, given, context))
            .collect();
        if !self.operator.negated {
            return fits.contains(&Fit::Yes);
        }
        let unresolved = fits.contains(&Fit::Unresolved);
        !fits.contains(&Fit::Yes) && (!unresolved || effect == Effect::Deny)
    }
}

fn expected(
    comparison: Comparison,
    text: &str,
    variables: bool,
) -> Result<Option<Expected>, PolicyError> {
    let pattern = |wildcards| {
        Pattern::parse(
            text,
            Reading {
                wildcards,
                variables,
            },
        )
    };
    Ok(match comparison {
        Comparison::Text { like, ignore_case } => Some(Expected::Text {
            pattern: pattern(like)?,
            ignore_case,
        }),
        Comparison::Arn => Some(Expected::Arn(pattern(true)?)),
        Comparison::Number(order) => {
            value::number(text).map(|number| Expected::Number(order, number))
        }
        Comparison::Date(order) => value::date(text).map(|date| Expected::Date(order, date)),
        Comparison::Boolean => value::boolean(text).map(Expected::Boolean),
        Comparison::Address => value::network(text).map(Expected::Network),
        Comparison::Null => value::boolean(text).map(Expected::Absent),
    })
}

/// What a value must look like.
fn form(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Text { .. } | Comparison::Arn => "it must be text",
        Comparison::Number(_) => "it must be a number",
        Comparison::Date(_) => {
            "it must be a time such as 2026-11-25T12:00:00Z, a day, or seconds since 1970"
        }
        Comparison::Boolean | Comparison::Null => "it must be true or false",
        Comparison::Address => "it must be an address or a network such as 192.0.2.0/24",
    }
}

fn fit(expected: &Expected, given: &str, context: &Context) -> Fit {
    let yes = match expected {
        Expected::Text {
            pattern,
            ignore_case,
        } => return pattern.fits(given, context, *ignore_case),
        Expected::Arn(pattern) => return pattern.fits_arn(given, context),
        Expected::Number(order, number) => {
            value::number(given).is_some_and(|given| order.holds(&given, number))
        }
        Expected::Date(order, date) => {
            value::date(given).is_some_and(|given| order.holds(&given, date))
        }
        Expected::Boolean(expected) => value::boolean(given) == Some(*expected),
        Expected::Network(network) => {
            value::address(given).is_some_and(|given| network.contains(&given))
        }
        Expected::Absent(_) => false,
    };
    if yes { Fit::Yes } else { Fit::No }
}
