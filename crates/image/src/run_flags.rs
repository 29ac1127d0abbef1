//! What a `RUN` instruction's flags may ask of `buildah`. The `buildah` of Debian 12 (1.28) follows symbolic
//! links and `..` in what `--mount` names, with the host's root rights (CVE-2024-1753, CVE-2024-9675,
//! CVE-2024-9407): a step could mount what is not its own. The build's file system holds little of the host
//! (see [`crate::confinement`]), but the storage of all builds is in it. So what can lead there is refused
//! here, in Dockerfiles and in the `ONBUILD` triggers of base images, whatever `buildah` is installed.
//!
//! Not a Dockerfile parser: in doubt it refuses. Every line is looked at as if an instruction began there, in
//! each way that its continuation may be read ([`dockerfile::readings`]): what one reader takes for the rest
//! of a harmless line may be an instruction of its own to another.

use crate::dockerfile;

/// Flags of `RUN` that are looked at; others are refused.
const MOUNT: &str = "--mount";
const NETWORK: &str = "--network";

/// Why an instruction is refused, as the rest of a sentence that begins with "the Dockerfile's RUN".
type Reason = String;

/// The first reason to refuse a Dockerfile, or one trigger; `None` where there is none.
pub(crate) fn refused(text: &str) -> Option<Reason> {
    let text = text.trim_start_matches('\u{feff}');
    if let Some(reason) = text.lines().find_map(other_escape) {
        return Some(reason);
    }
    let Some(readings) = dockerfile::readings(text) else {
        return Some("is continued over too many lines".to_owned());
    };
    let mut caches = Vec::new();
    readings
        .iter()
        .find_map(|instruction| check(instruction, &mut caches).err())
}

/// `# escape=` with another character than the usual one would hide how lines continue.
fn other_escape(line: &str) -> Option<Reason> {
    let directive = line.trim().strip_prefix('#')?.trim();
    let (name, value) = directive.split_once('=')?;
    let other = name.trim().eq_ignore_ascii_case("escape") && value.trim() != "\\";
    other.then(|| {
        "may only be continued with a backslash, not by another escape character".to_owned()
    })
}

fn check(instruction: &str, caches: &mut Vec<String>) -> Result<(), Reason> {
    let mut rest = instruction.trim_start();
    loop {
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = after.trim_start();
        match word.to_ascii_uppercase().as_str() {
            "ONBUILD" => {}
            "RUN" => break,
            _ => return Ok(()),
        }
    }
    for flag in rest
        .split_whitespace()
        .take_while(|word| word.starts_with("--"))
    {
        if flag.contains(['"', '\'', '\\', '$']) {
            return Err(format!(
                "has the flag {flag:?}; write flags without quotes, escapes and variables"
            ));
        }
        match flag.split_once('=') {
            Some((MOUNT, mount)) => check_mount(mount, caches)?,
            Some((NETWORK, _)) => {}
            _ => return Err(format!("has the flag {flag:?}, which is not supported")),
        }
    }
    Ok(())
}

fn check_mount(mount: &str, caches: &mut Vec<String>) -> Result<(), Reason> {
    let options: Vec<(&str, &str)> = mount
        .split(',')
        .map(|option| option.split_once('=').unwrap_or((option, "")))
        .collect();
    let option = |names: &[&str]| {
        let mut values = options.iter().filter(|(name, _)| names.contains(name));
        values.next().map(|(_, value)| *value)
    };
    let known: &[&str] = match option(&["type"]) {
        None | Some("bind") => &["source", "src", "from"],
        Some("cache") => &["id", "sharing", "mode", "uid", "gid"],
        Some("tmpfs") => &["size", "mode"],
        Some("secret" | "ssh") => &["id", "required", "mode", "uid", "gid", "env"],
        Some(other) => {
            return Err(format!(
                "mounts something of type {other:?}, which is not supported"
            ));
        }
    };
    let common = [
        "type",
        "target",
        "dst",
        "destination",
        "ro",
        "readonly",
        "rw",
        "readwrite",
    ];
    for (at, (name, _)) in options.iter().enumerate() {
        if !known.contains(name) && !common.contains(name) {
            return Err(format!(
                "has the option {name:?} in --mount, which is not supported"
            ));
        }
        if options[..at].iter().any(|(earlier, _)| earlier == name) {
            return Err(format!("has the option {name:?} twice in one --mount"));
        }
    }
    if option(&["from"]).is_some() && option(&["source", "src"]).is_some() {
        return Err("mounts a part of another image; copy it with COPY --from instead".to_owned());
    }
    if option(&["type"]) == Some("cache") {
        let target = option(&["target", "dst", "destination"]);
        return add_cache(option(&["id"]), target.unwrap_or_default(), caches);
    }
    Ok(())
}

/// A cache lies in a directory of its own, named by its id or else by its target. A step that could write
/// into the directory above could put a link in its place.
fn add_cache(id: Option<&str>, target: &str, caches: &mut Vec<String>) -> Result<(), Reason> {
    let parts = |path: &str| -> Vec<String> {
        let parts = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".");
        parts.map(str::to_owned).collect()
    };
    let place = parts(id.unwrap_or(target));
    if place.is_empty() || place.iter().chain(&parts(target)).any(|part| part == "..") {
        return Err("has a cache without a plain id or target".to_owned());
    }
    let place = place.join("/");
    let within = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    if caches
        .iter()
        .any(|known| within(known, &place) || within(&place, known))
    {
        return Err("has a cache inside another cache; give each an id of its own".to_owned());
    }
    caches.push(place);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::refused;

    #[test]
    fn ordinary_mounts_and_networks_pass() {
        for line in [
            "RUN apt-get update",
            "RUN --mount=type=cache,target=/root/.cache/uv --mount=type=cache,target=/var/cache/apt,sharing=locked make",
            "RUN --mount=type=bind,source=uv.lock,target=uv.lock uv sync",
            "RUN --mount=type=bind,from=builder,target=/builder cp /builder/a /a",
            "RUN --mount=type=tmpfs,target=/tmp,size=1000 make",
            "RUN --mount=type=secret,id=npm npm ci",
            "RUN --network=none make",
            "RUN unshare --mount=/x id",
            "CMD [\"run\", \"--mount=type=bind,from=a,source=/b\"]",
            "ONBUILD COPY . .",
        ] {
            assert_eq!(refused(line), None, "{line}");
        }
        let twice =
            "RUN --mount=type=cache,id=a,target=/a x\nRUN --mount=type=cache,id=a,target=/b x";
        assert_eq!(refused(twice), None, "the same cache may be used again");
    }

    #[test]
    fn what_could_lead_out_of_the_build_is_refused() {
        for line in [
            "RUN --mount=type=bind,from=base,source=/abc,target=/y,rw=true ls",
            "RUN --mount=from=base,src=/abc,target=/y ls",
            "RUN --mount=type=cache,id=../../etc,target=/x ls",
            "RUN --mount=type=cache,target=../../etc ls",
            "RUN --mount=type=cache,id=a,target=/a/../../b ls",
            "RUN --mount=type=cache,id=.,target=/a ls",
            "RUN --mount=type=cache,id=a,source=link,target=/x ls",
            "RUN --mount=type=cache,from=base,target=/x ls",
            "RUN --mount=type=bind,source=.,bind-propagation=rshared,target=/x ls",
            "RUN --mount=type=cache,id=a,id=../b,target=/x ls",
            "RUN --mount=type=image,target=/x ls",
            "RUN --mount=$MOUNT ls",
            "RUN --\"mount\"=type=bind,from=b,source=/c,target=/y ls",
            "RUN --mo\\unt=type=cache,target=../x ls",
            "RUN --device=/dev/sda ls",
            "RUN --security=insecure ls",
            "RUN --network=none --mount=type=cache,target=.. ls",
            "onbuild onbuild run --mount=type=cache,target=/a/.. ls",
            "RUN \\\n\n# a comment\n  --mo\\\nunt=type=cache,target=../x ls",
            "\u{feff}RUN --mount=type=cache,target=../x ls",
            "# escape=`\nRUN `\n--mount=type=cache,target=../x ls",
            "RUN --mount=type=cache,target=/x a\nRUN --mount=type=cache,target=/x/link b",
            "RUN --mount=type=cache,id=x/link,target=/b a\nRUN --mount=type=cache,target=/x b",
            // White space behind a backslash that continues the line for one reader only.
            "RUN true \\\u{a0}\nRUN --mount=type=cache,target=../x ls",
            "RUN true \\\u{b}\nRUN --mount=type=cache,target=../x ls",
            "RUN true \\\u{c}\nRUN --mount=type=cache,target=../x ls",
            "RUN true \\\u{2003}\nRUN --mount=type=cache,target=../x ls",
            "RUN true \\\r\r\nRUN --mount=type=cache,target=../x ls",
            "RUN true \\ \t\n --mount=x \\\nRUN --mount=type=cache,target=../x ls",
            "RUN \\ \t\n--mount=type=cache,target=../x ls",
            // The end of a here-document that looks like a line to continue.
            "RUN <<'X\\'\ntrue\nX\\\nRUN --mount=type=cache,target=../x ls",
            // White space that begins a continued line parts two flags.
            "RUN --mount=type=secret,env=1\\\n --mount=type=cache,id=../x,target=/y ls",
        ] {
            assert!(refused(line).is_some(), "{line}");
        }
    }
}
