//! Runs `ip` and `nft` with a script on standard input, on the host or inside a slot's namespace,
//! within a time limit. What the scripts say is not decided here.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use crate::NetworkError;
use crate::namespace::Visitor;

/// Bound of one command. They take milliseconds; a loaded host gets patience, not for ever.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// Most of a failed command's output that an error repeats, characters.
const QUOTED_OUTPUT: usize = 600;

/// Where a command runs.
pub(crate) enum Place<'a> {
    /// The daemon's own namespace.
    Host,
    /// A slot's.
    Slot(&'a Arc<OwnedFd>),
}

/// The programs that slots are made with.
#[derive(Debug)]
pub(crate) struct Commands {
    ip: PathBuf,
    nft: PathBuf,
    visitor: Visitor,
}

impl Commands {
    /// Looks the programs up.
    pub(crate) fn find(visitor: Visitor) -> Result<Self, NetworkError> {
        Ok(Self {
            ip: find("ip", "iproute2")?,
            nft: find("nft", "nftables")?,
            visitor,
        })
    }

    /// The thread that enters namespaces.
    pub(crate) fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    /// Runs a batch of `ip` commands, one a line; the first that fails ends it.
    pub(crate) async fn ip(
        &self,
        place: Place<'_>,
        script: String,
        attempted: &str,
    ) -> Result<(), NetworkError> {
        self.run(place, &self.ip, &["-batch", "-"], script, attempted)
            .await
            .map(drop)
    }

    /// Asks `ip` for JSON.
    pub(crate) async fn ip_json<T: serde::de::DeserializeOwned>(
        &self,
        arguments: &[&str],
        attempted: &str,
    ) -> Result<T, NetworkError> {
        let output = self
            .run(Place::Host, &self.ip, arguments, String::new(), attempted)
            .await?;
        parse_json(&output, attempted)
    }

    /// Applies an `nft` script as one transaction.
    pub(crate) async fn nft(
        &self,
        place: Place<'_>,
        script: String,
        attempted: &str,
    ) -> Result<(), NetworkError> {
        self.run(place, &self.nft, &["-f", "-"], script, attempted)
            .await
            .map(drop)
    }

    /// Asks the host's `nft` for JSON.
    pub(crate) async fn nft_json<T: serde::de::DeserializeOwned>(
        &self,
        arguments: &[&str],
        attempted: &str,
    ) -> Result<T, NetworkError> {
        let output = self
            .run(Place::Host, &self.nft, arguments, String::new(), attempted)
            .await?;
        parse_json(&output, attempted)
    }

    async fn run(
        &self,
        place: Place<'_>,
        program: &Path,
        arguments: &[&str],
        input: String,
        attempted: &str,
    ) -> Result<String, NetworkError> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let finished = tokio::time::timeout(COMMAND_LIMIT, async {
            let child = self.spawn(place, command).await?;
            feed_and_wait(child, input).await
        })
        .await
        .unwrap_or_else(|late| Err(late.into()))
        .map_err(|source| NetworkError::Io {
            attempted: format!("{attempted} with {}", program.display()),
            source,
        })?;
        if finished.status.success() {
            return Ok(String::from_utf8_lossy(&finished.stdout).into_owned());
        }
        let printed = [finished.stderr, finished.stdout].concat();
        let printed = String::from_utf8_lossy(&printed);
        let output = format!("{}: {}", finished.status, printed.trim());
        Err(NetworkError::Command {
            attempted: attempted.to_owned(),
            output: output.chars().take(QUOTED_OUTPUT).collect(),
        })
    }

    async fn spawn(&self, place: Place<'_>, mut command: Command) -> io::Result<Child> {
        let Place::Slot(namespace) = place else {
            return command.spawn();
        };
        let runtime = Handle::current();
        // A child starts in the namespace of the thread that made it.
        self.visitor
            .visit(namespace, move || {
                let _entered = runtime.enter();
                command.spawn()
            })
            .await
    }
}

async fn feed_and_wait(mut child: Child, input: String) -> io::Result<std::process::Output> {
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()).await {
            // It stopped reading because it failed: what it printed says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => other?,
        }
    }
    child.wait_with_output().await
}

fn parse_json<T: serde::de::DeserializeOwned>(
    output: &str,
    attempted: &str,
) -> Result<T, NetworkError> {
    // Nothing to list is printed as nothing.
    let output = if output.trim().is_empty() {
        "[]"
    } else {
        output
    };
    serde_json::from_str(output).map_err(|error| NetworkError::Io {
        attempted: format!("{attempted}: understand what was printed"),
        source: error.into(),
    })
}

fn find(program: &'static str, package: &'static str) -> Result<PathBuf, NetworkError> {
    // A plain user's PATH on Debian lacks the directories that these live in.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or(NetworkError::MissingProgram { program, package })
}
