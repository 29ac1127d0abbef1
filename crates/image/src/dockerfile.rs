//! Which images a Dockerfile starts from, read well enough to fetch them beforehand, and how its lines may be
//! read. Not a Dockerfile parser: what it cannot resolve it refuses.

/// Most base images of one Dockerfile.
const MOST_BASES: usize = 16;

/// Largest Dockerfile looked at, bytes.
pub(crate) const LARGEST: u64 = 1024 * 1024;

/// Most text of all readings of one Dockerfile together, bytes; an ordinary one has some kilobytes.
const MOST_READ: usize = 32 * 1024 * 1024;

/// Why the images of a Dockerfile cannot be told, as a sentence about it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnclearBase {
    /// A name holds a variable without a known value.
    #[error(
        "its {instruction} names {name}, in which a variable has no value: give it a default with ARG before the first FROM"
    )]
    Variable {
        /// `FROM` or `COPY`.
        instruction: &'static str,
        /// The name as written.
        name: String,
    },
    /// More images than are looked at.
    #[error("it names more than {MOST_BASES} base images")]
    TooMany,
}

/// The images of registries that `FROM` and `COPY --from` name, each once, in order.
///
/// # Errors
/// When a name cannot be told, or there are too many.
pub(crate) fn base_images(dockerfile: &str) -> Result<Vec<String>, UnclearBase> {
    let mut arguments: Vec<(String, String)> = Vec::new();
    let mut stages: Vec<String> = Vec::new();
    let mut bases: Vec<String> = Vec::new();
    for instruction in instructions(dockerfile) {
        let (word, rest) = first_word(&instruction);
        let named = match word.to_ascii_uppercase().as_str() {
            "ARG" if stages.is_empty() => {
                arguments.extend(rest.split_whitespace().filter_map(default_of));
                None
            }
            "FROM" => match from(rest) {
                Some((name, alias)) => {
                    let name = resolved("FROM", name, &arguments)?;
                    let known = stages.contains(&name.to_ascii_lowercase());
                    stages.push(alias.to_ascii_lowercase());
                    (!known).then_some(name)
                }
                None => None,
            },
            "COPY" => {
                let mut words = rest.split_whitespace();
                let name = words.find_map(|word| word.strip_prefix("--from="));
                name.map(|name| resolved("COPY", name, &[]))
                    .transpose()?
                    .filter(|name| {
                        !stages.contains(&name.to_ascii_lowercase())
                            && name.parse::<usize>().is_err()
                    })
            }
            _ => None,
        };
        bases.extend(named.filter(|name| is_registry_image(name) && !bases.contains(name)));
        if bases.len() > MOST_BASES {
            return Err(UnclearBase::TooMany);
        }
    }
    Ok(bases)
}

/// Every name that some reader may take for the image of a `FROM`: those that [`base_images`] does not
/// see are not fetched, but may be there.
pub(crate) fn possible_bases(readings: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for reading in readings {
        let (word, rest) = first_word(reading);
        let name = (word.eq_ignore_ascii_case("FROM"))
            .then(|| from(rest))
            .flatten()
            .map(|(name, _)| name.to_owned());
        names.extend(name.filter(|name| is_registry_image(name) && !names.contains(name)));
    }
    names
}

fn first_word(instruction: &str) -> (&str, &str) {
    let instruction = instruction.trim_start();
    instruction
        .split_once(char::is_whitespace)
        .unwrap_or((instruction, ""))
}

/// Image and alias of a `FROM`, which has no other forms than `IMAGE` and `IMAGE AS ALIAS`: a line of
/// Python in a here-document is none.
fn from(rest: &str) -> Option<(&str, &str)> {
    let words: Vec<&str> = rest
        .split_whitespace()
        .filter(|word| !word.starts_with("--"))
        .collect();
    match words[..] {
        [image] => Some((image, "")),
        [image, word, alias] if word.eq_ignore_ascii_case("AS") => Some((image, alias)),
        _ => None,
    }
}

fn resolved(
    instruction: &'static str,
    name: &str,
    arguments: &[(String, String)],
) -> Result<String, UnclearBase> {
    substituted(name, arguments).ok_or_else(|| UnclearBase::Variable {
        instruction,
        name: name.to_owned(),
    })
}

/// Instructions, one after the other, as `buildah` reads them.
fn instructions(dockerfile: &str) -> Vec<String> {
    let lines: Vec<&str> = dockerfile.lines().collect();
    let mut instructions = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (instruction, read) = joined(&lines[at..], Continuation::AsBuildah);
        if !is_blank(&instruction) {
            instructions.push(instruction);
        }
        at += read;
    }
    instructions
}

/// Everything that some reader may take for an instruction: from the start of every line, in each way of
/// continuing it. `None` when that is more than [`MOST_READ`] bytes: too many continued lines.
pub(crate) fn readings(dockerfile: &str) -> Option<Vec<String>> {
    let lines: Vec<&str> = dockerfile.lines().collect();
    let mut readings = Vec::new();
    let mut bytes = 0;
    for at in (0..lines.len()).filter(|&at| !is_blank(lines[at])) {
        for way in [Continuation::AsBuildah, Continuation::Generous] {
            let (reading, lines_read) = joined(&lines[at..], way);
            bytes += reading.len() + lines_read;
            readings.push(reading);
        }
        if bytes > MOST_READ {
            return None;
        }
    }
    Some(readings)
}

/// How lines are joined.
#[derive(Clone, Copy)]
enum Continuation {
    /// As the parser in `buildah` does (`openshift/imagebuilder`, `dockerfile/parser`): a backslash with
    /// nothing but spaces and tabs behind it, and the next line as it stands.
    AsBuildah,
    /// Any white space behind the backslash, and none at the start of the next line.
    Generous,
}

/// An instruction that begins with the first of these lines, and how many of them it takes. Comments and
/// empty lines within it count as nothing.
fn joined(lines: &[&str], continuation: Continuation) -> (String, usize) {
    let mut instruction = String::new();
    for (at, line) in lines.iter().enumerate() {
        if is_blank(line) {
            if at == 0 {
                return (instruction, 1);
            }
            continue;
        }
        let line = match continuation {
            Continuation::AsBuildah if at > 0 => line,
            _ => line.trim_start(),
        };
        let end = match continuation {
            Continuation::AsBuildah => line.trim_end_matches([' ', '\t']),
            Continuation::Generous => line.trim_end(),
        };
        let Some(continued) = end.strip_suffix('\\') else {
            instruction.push_str(line);
            return (instruction, at + 1);
        };
        instruction.push_str(continued);
    }
    (instruction, lines.len())
}

/// Whether a line is empty or a comment.
fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// `NAME=value` of an `ARG`, quotes dropped.
fn default_of(word: &str) -> Option<(String, String)> {
    let (name, value) = word.split_once('=')?;
    Some((name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
}

/// A word with `$NAME`, `${NAME}` and `${NAME:-default}` replaced; `None` where one is unknown or another
/// form is used.
fn substituted(word: &str, arguments: &[(String, String)]) -> Option<String> {
    let mut text = with_defaults(word, arguments);
    for (name, value) in arguments {
        text = text.replace(&format!("${{{name}}}"), value);
        if let Some(rest) = text.strip_suffix(&format!("${name}")) {
            text = format!("{rest}{value}");
        }
    }
    (!text.contains('$')).then_some(text)
}

/// A word with each `${NAME:-default}` and `${NAME-default}` replaced.
fn with_defaults(word: &str, arguments: &[(String, String)]) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("${") {
        text.push_str(before);
        let Some((inside, following)) = after.split_once('}') else {
            break;
        };
        match inside.split_once('-') {
            Some((name, default)) => {
                let name = name.trim_end_matches(':');
                let known = arguments
                    .iter()
                    .rfind(|(known, value)| known == name && !value.is_empty());
                text.push_str(known.map_or(default, |(_, value)| value));
            }
            None => {
                text.push_str("${");
                text.push_str(inside);
                text.push('}');
            }
        }
        rest = following;
    }
    text + rest
}

/// Whether a name can only mean an image of a registry or of the local storage: no transport
/// (`oci:/path`, `docker-archive:/path`) that would read the host's files.
fn is_registry_image(name: &str) -> bool {
    let characters = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c));
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    name != "scratch" && characters && starts && !name.contains(":/") && !has_transport(name)
}

/// Names of the containers/image transports that take a path or a daemon.
fn has_transport(name: &str) -> bool {
    let transports = [
        "containers-storage",
        "dir",
        "docker-archive",
        "docker-daemon",
        "oci",
        "oci-archive",
        "ostree",
        "sif",
        "tarball",
    ];
    name.split_once(':')
        .is_some_and(|(first, _)| transports.contains(&first))
}

#[cfg(test)]
mod tests {
    use super::{UnclearBase, base_images, possible_bases, readings};

    #[test]
    fn the_base_images_of_all_stages_are_found() {
        let dockerfile = "# syntax=docker/dockerfile:1\nARG VERSION=3.12\nARG KIND=\"slim\"\n\
            FROM --platform=linux/amd64 golang:1.23 AS build\nRUN go build\nFROM build AS test\n\
            from python:${VERSION}-${KIND}\nCOPY --from=build /a /a\nCOPY --from=0 /b /b\n\
            COPY --from=ghcr.io/astral-sh/uv:0.5 /uv /uv\nFROM \\\n  registry.local:5000/a/b@sha256:0011\nFROM scratch\n";
        assert_eq!(
            base_images(dockerfile).unwrap(),
            [
                "golang:1.23",
                "python:3.12-slim",
                "ghcr.io/astral-sh/uv:0.5",
                "registry.local:5000/a/b@sha256:0011"
            ]
        );
    }

    #[test]
    fn defaults_of_arguments_are_taken() {
        let dockerfile =
            "ARG A\nARG B=two\nFROM x:${A:-one}\nFROM ${C-y}:${B:-three}-slim\nFROM z:$B\n";
        assert_eq!(
            base_images(dockerfile).unwrap(),
            ["x:one", "y:two-slim", "z:two"]
        );
    }

    #[test]
    fn what_is_no_registry_image_is_left_alone() {
        let dockerfile = "FROM oci:/etc\nFROM dir:x\nFROM --help\nFROM -rf\nFROM a;b\nFROM docker://x\n\
            RUN <<EOF\nfrom os import path\nEOF\n";
        assert_eq!(base_images(dockerfile), Ok(Vec::new()));
    }

    #[test]
    fn a_base_that_cannot_be_told_is_refused() {
        for unclear in [
            "FROM $UNKNOWN",
            "FROM ${A:+x}",
            "FROM a\nCOPY --from=$X /a /a",
        ] {
            let refused = base_images(unclear);
            assert!(
                matches!(refused, Err(UnclearBase::Variable { .. })),
                "{unclear}"
            );
        }
        let many: String = (0..17).map(|at| format!("FROM a{at}\n")).collect();
        assert_eq!(base_images(&many), Err(UnclearBase::TooMany));
    }

    #[test]
    fn every_line_may_begin_an_instruction() {
        let hidden = "FROM a\nRUN true \\\u{a0}\nFROM evil\nRUN <<'X\\'\nX\\\nFROM worse AS w\n";
        assert_eq!(
            possible_bases(&readings(hidden).unwrap()),
            ["a", "evil", "worse"]
        );
        assert_eq!(readings(&"\\\n".repeat(500_000)), None);
    }
}
