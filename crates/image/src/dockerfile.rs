//! Which images a Dockerfile starts from, read well enough to fetch them beforehand. Not a Dockerfile
//! parser: what it cannot resolve is not fetched, and a build that needs it fails.

/// Most base images of one Dockerfile; a build with more fails for want of the rest.
const MOST_BASES: usize = 16;

/// Largest Dockerfile looked at, bytes.
pub(crate) const LARGEST: u64 = 1024 * 1024;

/// The images of registries that `FROM` and `COPY --from` name, each once, in order.
pub(crate) fn base_images(dockerfile: &str) -> Vec<String> {
    let mut arguments: Vec<(String, String)> = Vec::new();
    let mut stages: Vec<String> = Vec::new();
    let mut bases: Vec<String> = Vec::new();
    for instruction in instructions(dockerfile) {
        let mut words = instruction.split_whitespace();
        let named = match words
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase()
            .as_str()
        {
            "ARG" if stages.is_empty() => {
                arguments.extend(words.filter_map(default_of));
                None
            }
            "FROM" => {
                let words: Vec<&str> = words.filter(|word| !word.starts_with("--")).collect();
                let name = words.first().and_then(|word| substituted(word, &arguments));
                let known = name
                    .clone()
                    .filter(|name| !stages.contains(&name.to_ascii_lowercase()));
                let alias = if words.len() == 3 { words[2] } else { "" };
                stages.push(alias.to_ascii_lowercase());
                known
            }
            "COPY" => words
                .find_map(|word| word.strip_prefix("--from="))
                .map(str::to_owned)
                .filter(|name| {
                    !stages.contains(&name.to_ascii_lowercase()) && name.parse::<usize>().is_err()
                }),
            _ => None,
        };
        bases.extend(named.filter(|name| is_registry_image(name) && !bases.contains(name)));
    }
    bases.truncate(MOST_BASES);
    bases
}

/// Instructions with continued lines joined and comments dropped.
fn instructions(dockerfile: &str) -> Vec<String> {
    let mut instructions = Vec::new();
    let mut current = String::new();
    for line in dockerfile
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
    {
        if let Some(continued) = line.strip_suffix('\\') {
            current.push_str(continued);
            current.push(' ');
        } else {
            current.push_str(line);
            instructions.push(std::mem::take(&mut current));
        }
    }
    instructions.push(current);
    instructions
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
    use super::base_images;

    #[test]
    fn the_base_images_of_all_stages_are_found() {
        let dockerfile = "# syntax=docker/dockerfile:1\nARG VERSION=3.12\nARG KIND=\"slim\"\n\
            FROM --platform=linux/amd64 golang:1.23 AS build\nRUN go build\nFROM build AS test\n\
            from python:${VERSION}-${KIND}\nCOPY --from=build /a /a\nCOPY --from=0 /b /b\n\
            COPY --from=ghcr.io/astral-sh/uv:0.5 /uv /uv\nFROM \\\n  registry.local:5000/a/b@sha256:0011\nFROM scratch\n";
        assert_eq!(
            base_images(dockerfile),
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
        assert_eq!(base_images(dockerfile), ["x:one", "y:two-slim", "z:two"]);
    }

    #[test]
    fn what_is_no_registry_image_is_left_alone() {
        let dockerfile = "FROM oci:/etc\nFROM dir:x\nFROM $UNKNOWN\nFROM --help\nFROM -rf\nFROM a;b\nFROM docker://x\n";
        assert!(base_images(dockerfile).is_empty());
    }
}
