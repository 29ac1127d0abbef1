//! Texts of a policy that something is compared with: wildcards (`*`, `?`) and policy variables
//! (`${aws:username}`).
//!
//! A variable's value is compared letter by letter: a `*` in it is a star and never a wildcard, so
//! that whoever chooses a name or a tag cannot widen a policy by it.

use super::error::PolicyError;
use super::request::Context;

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Character(char),
    /// `?`
    One,
    /// `*`
    Any,
    /// `${key}` or `${key, 'default'}`.
    Variable {
        key: String,
        default: Option<String>,
    },
}

/// How a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// Whether `*` and `?` stand for others.
    pub(super) wildcards: bool,
    /// Whether `${…}` stands for a value of the request: since version 2012-10-17 of the language.
    pub(super) variables: bool,
}

/// A text with wildcards and variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

/// Whether a text fits a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    No,
    /// A variable of the pattern has no value in this request.
    Unresolved,
}

impl Pattern {
    /// `*`
    pub(super) fn anything() -> Self {
        Self {
            tokens: vec![Token::Any],
        }
    }

    pub(super) fn parse(text: &str, reading: Reading) -> Result<Self, PolicyError> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            if reading.variables
                && let Some(after) = rest.strip_prefix("${")
            {
                let (inside, after) = after
                    .split_once('}')
                    .ok_or_else(|| PolicyError::Variable(text.to_owned()))?;
                tokens
                    .push(variable(inside).ok_or_else(|| PolicyError::Variable(text.to_owned()))?);
                rest = after;
                continue;
            }
            tokens.push(match character {
                '*' if reading.wildcards => Token::Any,
                '?' if reading.wildcards => Token::One,
                other => Token::Character(other),
            });
            rest = &rest[character.len_utf8()..];
        }
        Ok(Self { tokens })
    }

    /// Compares a whole text.
    pub(super) fn fits(&self, text: &str, context: &Context, ignore_case: bool) -> Fit {
        match self.resolved(context) {
            None => Fit::Unresolved,
            Some(tokens) if glob(&tokens, text, ignore_case) => Fit::Yes,
            Some(_) => Fit::No,
        }
    }

    /// Compares an ARN part by part: no wildcard reaches beyond one of the first five colons.
    pub(super) fn fits_arn(&self, text: &str, context: &Context) -> Fit {
        let Some(tokens) = self.resolved(context) else {
            return Fit::Unresolved;
        };
        let expected: Vec<&[Token]> = tokens
            .splitn(ARN_PARTS, |token| *token == Token::Character(':'))
            .collect();
        let given: Vec<&str> = text.splitn(ARN_PARTS, ':').collect();
        let same = expected.len() == given.len()
            && expected
                .iter()
                .zip(given)
                .all(|(part, text)| glob(part, text, false));
        if same { Fit::Yes } else { Fit::No }
    }

    /// The pattern with its variables' values in their places.
    fn resolved(&self, context: &Context) -> Option<Vec<Token>> {
        let mut tokens = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            match token {
                Token::Variable { key, default } => {
                    let value = context.single(key).or(default.as_deref())?;
                    tokens.extend(value.chars().map(Token::Character));
                }
                other => tokens.push(other.clone()),
            }
        }
        Some(tokens)
    }
}

/// `arn:partition:service:region:account:resource`
const ARN_PARTS: usize = 6;

/// What stands between `${` and `}`.
fn variable(inside: &str) -> Option<Token> {
    // These three are how a policy writes the characters themselves.
    if let "*" | "?" | "$" = inside {
        return inside.chars().next().map(Token::Character);
    }
    let (key, default) = match inside.split_once(',') {
        None => (inside, None),
        Some((key, default)) => {
            let quoted = default.trim().strip_prefix('\'')?.strip_suffix('\'')?;
            (key, Some(quoted.to_owned()))
        }
    };
    let key = key.trim();
    let good = |character: char| {
        character.is_alphanumeric() || matches!(character, ':' | '/' | '-' | '_' | '.' | '+' | '@')
    };
    (!key.is_empty() && key.chars().all(good)).then(|| Token::Variable {
        key: key.to_lowercase(),
        default,
    })
}

/// Compares in time of at most pattern times text: only the last star is ever gone back to.
fn glob(pattern: &[Token], text: &str, ignore_case: bool) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut read) = (0, 0);
    let mut star = None;
    while let Some(&character) = text.get(read) {
        match pattern.get(at) {
            Some(Token::Any) => {
                star = Some((at, read));
                at += 1;
                continue;
            }
            Some(Token::One) => {
                at += 1;
                read += 1;
                continue;
            }
            Some(Token::Character(expected)) if same(*expected, character, ignore_case) => {
                at += 1;
                read += 1;
                continue;
            }
            _ => {}
        }
        let Some((place, start)) = star else {
            return false;
        };
        star = Some((place, start + 1));
        at = place + 1;
        read = start + 1;
    }
    pattern
        .get(at..)
        .unwrap_or_default()
        .iter()
        .all(|token| *token == Token::Any)
}

fn same(one: char, other: char, ignore_case: bool) -> bool {
    one == other || (ignore_case && one.to_lowercase().eq(other.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::{Fit, Pattern, Reading};
    use crate::policy::Context;

    const ALL: Reading = Reading {
        wildcards: true,
        variables: true,
    };

    fn fits(pattern: &str, text: &str, context: &Context) -> Fit {
        let pattern = Pattern::parse(pattern, ALL).expect("a pattern");
        pattern.fits(text, context, false)
    }

    #[test]
    fn wildcards_stand_for_any_text_or_one_character() {
        let none = Context::default();
        for (pattern, text) in [
            ("*", ""),
            ("a*c", "abbc"),
            ("a*b*c", "a-b-b-c"),
            ("?", "é"),
            ("a*", "a:b:c"),
            ("**x", "x"),
        ] {
            assert_eq!(fits(pattern, text, &none), Fit::Yes, "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("?", ""),
            ("a*c", "abcd"),
            ("A", "a"),
            ("a?c", "ac"),
        ] {
            assert_eq!(fits(pattern, text, &none), Fit::No, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(2000) + "b";
        let text = "a".repeat(4000);
        assert_eq!(fits(&pattern, &text, &Context::default()), Fit::No);
    }

    #[test]
    fn a_variables_value_is_no_wildcard_and_one_without_value_fits_nothing() {
        let mut context = Context::default();
        context.set("aws:username", "*");
        assert_eq!(
            fits("home/${aws:username}/*", "home/*/x", &context),
            Fit::Yes
        );
        assert_eq!(
            fits("home/${aws:UserName}/*", "home/ana/x", &context),
            Fit::No
        );
        let other = Context::default();
        assert_eq!(
            fits("home/${aws:username}/*", "home//x", &other),
            Fit::Unresolved
        );
        assert_eq!(fits("${aws:username, 'team'}", "team", &other), Fit::Yes);
        assert_eq!(fits("${*}${?}${$}", "*?$", &other), Fit::Yes);
    }

    #[test]
    fn malformed_variables_are_refused() {
        for text in ["${", "${}", "${a", "${a,b}", "${a b}", "${${a}}"] {
            assert!(Pattern::parse(text, ALL).is_err(), "{text}");
        }
        let before = Reading {
            variables: false,
            ..ALL
        };
        assert!(Pattern::parse("${", before).is_ok());
    }

    #[test]
    fn the_parts_of_an_arn_are_compared_each_for_itself() {
        let context = Context::default();
        let fits = |pattern: &str, text: &str| {
            let pattern = Pattern::parse(pattern, ALL).expect("a pattern");
            pattern.fits_arn(text, &context)
        };
        assert_eq!(
            fits("arn:aws:iam::*:user/a*", "arn:aws:iam::1:user/ab"),
            Fit::Yes
        );
        assert_eq!(
            fits("arn:aws:iam:*:user/a", "arn:aws:iam::1:user/a"),
            Fit::No
        );
        assert_eq!(fits("*", "arn:aws:iam::1:user/a"), Fit::No);
        assert_eq!(
            fits("arn:aws:lambda:*:*:x:*", "arn:aws:lambda:r:1:x:a:b"),
            Fit::Yes
        );
    }
}
