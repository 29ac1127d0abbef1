//! Filter patterns for text: terms that a message must hold, may hold, or must not hold. Patterns
//! for JSON, for columns and regular expressions are refused.
//!
//! Source: CloudWatch Logs user guide, "Filter pattern syntax": `ERROR`, `"INTERNAL SERVER ERROR"`,
//! `ERROR ARGUMENTS` (both), `?ERROR ?WARN` (one of them), `ERROR -EXITING` (the one, not the other).
//! Terms are looked for as they are written, in upper and lower case, anywhere in the message.

use super::fault::LogsFault;

/// Longest pattern, characters. CloudWatch Logs API: `FilterPattern`.
const LONGEST: usize = 1024;

/// Characters with a meaning in patterns: in a term, they need double quotes around it.
const NEED_QUOTES: &str = "\"{}[]()%*?$&|\\";

/// A pattern for text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pattern {
    all: Vec<String>,
    any: Vec<String>,
    none: Vec<String>,
}

impl Pattern {
    /// Reads a pattern; an empty one matches everything.
    pub(crate) fn parse(text: &str) -> Result<Self, LogsFault> {
        if text.chars().count() > LONGEST {
            return Err(invalid(&format!("it has more than {LONGEST} characters")));
        }
        let mut pattern = Self::default();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (terms, unsigned) = match rest.chars().next() {
                Some('?') => (&mut pattern.any, &rest[1..]),
                Some('-') => (&mut pattern.none, &rest[1..]),
                _ => (&mut pattern.all, rest),
            };
            let (term, after) = match unsigned.strip_prefix('"') {
                Some(quoted) => quoted_term(quoted)?,
                None => plain_term(unsigned)?,
            };
            terms.push(term);
            rest = after.trim_start();
        }
        let others = pattern.all.len() + pattern.none.len();
        if !pattern.any.is_empty() && others > 0 {
            return Err(invalid("terms with ? cannot stand beside other terms"));
        }
        Ok(pattern)
    }

    /// Whether a message is asked for.
    pub(crate) fn matches(&self, message: &str) -> bool {
        let holds = |term: &String| message.contains(term.as_str());
        self.all.iter().all(holds)
            && !self.none.iter().any(holds)
            && (self.any.is_empty() || self.any.iter().any(holds))
    }
}

/// A term up to the next space.
fn plain_term(text: &str) -> Result<(String, &str), LogsFault> {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (term, after) = text.split_at(end);
    if term.is_empty() {
        return Err(invalid("a term is missing after ? or -"));
    }
    if let Some(special) = term
        .chars()
        .find(|character| NEED_QUOTES.contains(*character))
    {
        return Err(invalid(&format!(
            "`{term}` holds `{special}`; put the term in double quotes (patterns for JSON, for columns and \
             regular expressions are not supported by Colibri)"
        )));
    }
    Ok((term.to_owned(), after))
}

/// A term up to the closing quote; `\"` and `\\` stand for themselves.
fn quoted_term(text: &str) -> Result<(String, &str), LogsFault> {
    let mut term = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' if term.is_empty() => return Err(invalid("a term in double quotes is empty")),
            '"' => return Ok((term, &text[index + 1..])),
            '\\' => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => term.push(escaped),
                Some((_, other)) => term.extend(['\\', other]),
                None => term.push('\\'),
            },
            other => term.push(other),
        }
    }
    Err(invalid("a double quote is not closed"))
}

fn invalid(why: &str) -> LogsFault {
    LogsFault::Invalid(format!("Invalid filter pattern: {why}"))
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    fn matching<'a>(pattern: &str, messages: &[&'a str]) -> Vec<&'a str> {
        let pattern = Pattern::parse(pattern).unwrap();
        messages
            .iter()
            .copied()
            .filter(|message| pattern.matches(message))
            .collect()
    }

    #[test]
    fn the_examples_of_the_user_guide_match_what_it_says() {
        let messages = [
            "[ERROR 400] BAD REQUEST",
            "[ERROR 401] UNAUTHORIZED",
            "[WARN] EXITING",
            "ERROR: EXITING",
            "info",
        ];
        assert_eq!(matching("", &messages), messages);
        assert_eq!(matching("ERROR", &messages).len(), 3);
        assert_eq!(matching("ERROR REQUEST", &messages), messages[..1]);
        assert_eq!(matching("?UNAUTHORIZED ?WARN", &messages), messages[1..3]);
        assert_eq!(matching("ERROR -EXITING", &messages), messages[..2]);
        assert_eq!(matching("\"BAD REQUEST\"", &messages), messages[..1]);
        assert_eq!(matching("-\"BAD REQUEST\" 40", &messages), messages[1..2]);
        assert_eq!(matching("error", &messages), <[&str; 0]>::default());
    }

    #[test]
    fn a_quoted_term_holds_anything() {
        let messages = [r#"{"level":"x"}"#, "a\\b [c]"];
        assert_eq!(matching(r#""{\"level\"""#, &messages), messages[..1]);
        assert_eq!(matching(r#""a\\b [""#, &messages), messages[1..]);
    }

    #[test]
    fn what_is_not_supported_is_refused_and_not_guessed() {
        for refused in [
            "{ $.level = \"x\" }",
            "[ip, user]",
            "%regular%",
            "a*",
            "\"open",
            "\"\"",
            "- a",
            "?",
            "?a b",
            "a\"b\"",
            &"a".repeat(1025),
        ] {
            assert!(Pattern::parse(refused).is_err(), "{refused}");
        }
    }
}
