//! What a container image says about running it, read from the image's own configuration.

use serde::Deserialize;

use crate::request::BuildFailure;

/// Signal for an orderly stop where the image names none: `SIGTERM`.
const SIGTERM: i32 = 15;

/// How the application is to be started, by the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerConfig {
    /// Entry point and command together; not empty.
    pub(crate) arguments: Vec<String>,
    /// `KEY=value`.
    pub(crate) environment: Vec<String>,
    /// Working directory; `/` where the image names none.
    pub(crate) working_directory: String,
    /// `user[:group]`; empty means root.
    pub(crate) user: String,
    /// Number of the stop signal.
    pub(crate) stop_signal: i32,
    /// TCP ports that the image exposes.
    pub(crate) exposed_ports: Vec<u16>,
}

/// `buildah inspect --type image`, as far as it matters here.
#[derive(Deserialize)]
struct Inspection {
    #[serde(rename = "OCIv1")]
    image: Image,
}

#[derive(Deserialize)]
struct Image {
    #[serde(default)]
    config: RawConfig,
}

/// `config` of an OCI image configuration (image-spec, "config.md").
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: String,
    user: String,
    stop_signal: String,
    exposed_ports: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The part of an inspection that only Docker's format has.
#[derive(Deserialize)]
struct DockerInspection {
    #[serde(rename = "Docker")]
    image: DockerImage,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerImage {
    config: Option<DockerConfig>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct DockerConfig {
    on_build: Option<Vec<String>>,
}

/// The `ONBUILD` triggers of an image, from `buildah inspect --type image`.
///
/// # Errors
/// When the inspection is not understood: what the image would do is not known then.
pub(crate) fn triggers(json: &str) -> Result<Vec<String>, BuildFailure> {
    let inspection: DockerInspection = serde_json::from_str(json)
        .map_err(|error| BuildFailure::internal("read the base image's configuration", &error))?;
    let config = inspection.image.config.unwrap_or_default();
    Ok(config.on_build.unwrap_or_default())
}

impl ContainerConfig {
    /// Reads the answer of `buildah inspect --type image`.
    ///
    /// # Errors
    /// When there is nothing to start, or the stop signal is none.
    pub(crate) fn from_inspection(json: &str) -> Result<Self, BuildFailure> {
        let inspection: Inspection = serde_json::from_str(json).map_err(|error| {
            BuildFailure::internal("read the container image's configuration", &error)
        })?;
        let raw = inspection.image.config;
        let arguments: Vec<String> = raw
            .entrypoint
            .unwrap_or_default()
            .into_iter()
            .chain(raw.cmd.unwrap_or_default())
            .collect();
        if arguments.iter().all(String::is_empty) {
            return Err(BuildFailure::application(
                "The container image has neither an ENTRYPOINT nor a CMD, so there is nothing to start; \
                 add one to the Dockerfile.",
            ));
        }
        let exposed = raw.exposed_ports.unwrap_or_default();
        Ok(Self {
            arguments,
            environment: raw.env.unwrap_or_default(),
            working_directory: if raw.working_dir.is_empty() {
                "/".to_owned()
            } else {
                raw.working_dir
            },
            user: raw.user,
            stop_signal: signal_number(&raw.stop_signal)?,
            exposed_ports: exposed.keys().filter_map(|port| tcp_port(port)).collect(),
        })
    }
}

/// `8080` or `8080/tcp`.
fn tcp_port(text: &str) -> Option<u16> {
    text.strip_suffix("/tcp")
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|port| *port != 0)
}

/// A `STOPSIGNAL`: a number, or a name with or without `SIG` (signal(7), x86-64 and ARM64 numbers).
fn signal_number(text: &str) -> Result<i32, BuildFailure> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    // Real-time signals as the container sees them: `SIGRTMIN+n`, from 34 (glibc keeps the first two).
    const REAL_TIME: i32 = 34;
    if text.is_empty() {
        return Ok(SIGTERM);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let by_name = (1..)
        .zip(NAMES)
        .find(|(_, known)| *known == name)
        .map(|(number, _)| number);
    let real_time = || match name.strip_prefix("RTMIN")? {
        "" => Some(REAL_TIME),
        offset => offset
            .strip_prefix('+')?
            .parse::<i32>()
            .ok()
            .map(|offset| REAL_TIME + offset),
    };
    let number = by_name.or_else(|| name.parse().ok()).or_else(real_time);
    number
        .filter(|number| (1..=64).contains(number))
        .ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            BuildFailure::application(format!(
                "The container image's STOPSIGNAL {shown:?} is not a signal."
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::{ContainerConfig, signal_number, triggers};

    #[test]
    fn an_images_triggers_are_read_and_an_unreadable_one_is_no_image_without() {
        let json = r#"{"Docker":{"config":{"OnBuild":["RUN a","COPY . ."]}}}"#;
        assert_eq!(triggers(json).unwrap(), ["RUN a", "COPY . ."]);
        assert!(
            triggers(r#"{"Docker":{"config":{"OnBuild":null}}}"#)
                .unwrap()
                .is_empty()
        );
        assert!(
            triggers(r#"{"Docker":{"config":null}}"#)
                .unwrap()
                .is_empty()
        );
        assert!(triggers("").is_err());
    }

    #[test]
    fn the_application_is_the_entry_point_and_then_the_command() {
        let json = r#"{"OCIv1":{"config":{"Entrypoint":["/run"],"Cmd":["a"],"Env":["A=b"],"User":"app",
            "ExposedPorts":{"8080/tcp":{},"53/udp":{}},"StopSignal":"SIGQUIT"}}}"#;
        let config = ContainerConfig::from_inspection(json).unwrap();
        assert_eq!(config.arguments, ["/run", "a"]);
        assert_eq!(
            (config.working_directory.as_str(), config.user.as_str()),
            ("/", "app")
        );
        assert_eq!((config.stop_signal, config.exposed_ports), (3, vec![8080]));
    }

    #[test]
    fn an_image_with_nothing_to_start_is_refused_in_plain_words() {
        let failure =
            ContainerConfig::from_inspection(r#"{"OCIv1":{"config":{"Entrypoint":null}}}"#)
                .unwrap_err();
        assert!(
            failure
                .to_string()
                .starts_with("The container image has neither an ENTRYPOINT nor a CMD")
        );
        assert!(ContainerConfig::from_inspection(r#"{"OCIv1":{}}"#).is_err());
    }

    #[test]
    fn stop_signals_come_as_names_and_numbers() {
        for (text, number) in [
            ("", 15),
            ("SIGINT", 2),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("SIGSYS", 31),
        ] {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for text in ["SIGFOO", "0", "65", "-1", "SIGRTMIN+99"] {
            assert!(signal_number(text).is_err(), "{text}");
        }
    }
}
