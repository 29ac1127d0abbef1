//! Programs of the host that a build runs: a clean environment, nothing on standard input, an end to
//! every wait, and no process left when the caller loses interest.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use crate::output::LineSplitter;

/// Where the host's programs are looked up; the daemon's own `PATH` may be a user's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Most output kept of a program that is not streamed, bytes.
const MOST_OUTPUT: u64 = 4 * 1024 * 1024;

/// Variables of the daemon that a program which fetches from registries gets: proxies and roots.
const FETCH_VARIABLES: [&str; 8] = [
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// A program of the host that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// It could not be started.
    #[error("could not start {program}; is it installed?")]
    Start {
        /// The program.
        program: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Reading its output or waiting for it failed.
    #[error("could not follow {program}")]
    Follow {
        /// The program.
        program: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It said no.
    #[error("{program} failed ({status}): {output}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Tail of what it printed.
        output: String,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {seconds} s")]
    TimedOut {
        /// The program.
        program: String,
        /// The bound, seconds.
        seconds: u64,
    },
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct HostCommand {
    program: String,
    command: Command,
}

impl HostCommand {
    /// `program` with the environment that it may see: `PATH`, and `HOME` and `TMPDIR` in `scratch`.
    pub(crate) fn new(program: &str, scratch: &Path) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", scratch)
            .env("TMPDIR", scratch)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        Self {
            program: program.to_owned(),
            command,
        }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Passes the daemon's proxies and certificate roots on.
    pub(crate) fn with_fetch_variables(mut self) -> Self {
        let present = FETCH_VARIABLES
            .iter()
            .filter_map(|key| std::env::var_os(key).map(|value| (key, value)));
        for (key, value) in present.collect::<Vec<(_, OsString)>>() {
            self.command.env(key, value);
        }
        self
    }

    /// Runs it to its end and returns its standard output.
    pub(crate) async fn output(mut self, bound: Duration) -> Result<String, CommandError> {
        let program = self.program;
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| CommandError::Start {
                program: program.clone(),
                source,
            })?;
        let follow = |source| CommandError::Follow {
            program: program.clone(),
            source,
        };
        let finished = tokio::time::timeout(bound, finish(&mut child)).await;
        let Ok(finished) = finished else {
            let _ = child.kill().await;
            return Err(CommandError::TimedOut {
                program,
                seconds: bound.as_secs(),
            });
        };
        let (status, output, errors) = finished.map_err(follow)?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&output).into_owned());
        }
        let output = tail(&String::from_utf8_lossy(&errors));
        Err(CommandError::Failed {
            program,
            status,
            output,
        })
    }

    /// Starts it with both outputs in one stream.
    pub(crate) fn stream(mut self) -> Result<RunningCommand, CommandError> {
        let program = self.program;
        let failed = |source| CommandError::Start {
            program: program.clone(),
            source,
        };
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        self.command
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer);
        let child = self.command.spawn().map_err(failed)?;
        // The pipe's writing end lives in the command too: without this the stream would never end.
        drop(self.command);
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(failed)?;
        Ok(RunningCommand {
            program,
            child,
            reader,
            splitter: LineSplitter::default(),
        })
    }
}

/// A program whose output is followed while it runs. Dropping it kills the program.
#[derive(Debug)]
pub(crate) struct RunningCommand {
    program: String,
    child: Child,
    reader: pipe::Receiver,
    splitter: LineSplitter,
}

impl RunningCommand {
    /// Hands over the next lines; false at the end of the output. Cancel safe.
    pub(crate) async fn lines(&mut self, line: impl FnMut(&str)) -> Result<bool, CommandError> {
        let mut chunk = [0; 8192];
        let count = self.reader.read(&mut chunk).await;
        let count = count.map_err(|source| CommandError::Follow {
            program: self.program.clone(),
            source,
        })?;
        if count == 0 {
            self.splitter.finish(line);
            return Ok(false);
        }
        self.splitter.push(&chunk[..count], line);
        Ok(true)
    }

    /// Waits for the end, after the output's.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, CommandError> {
        let status = self.child.wait().await;
        status.map_err(|source| CommandError::Follow {
            program: self.program.clone(),
            source,
        })
    }

    /// Kills it; returns when it is gone.
    pub(crate) async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }
}

async fn finish(child: &mut Child) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let read_output = async {
        match stdout {
            Some(stdout) => stdout.take(MOST_OUTPUT).read_to_end(&mut output).await,
            None => Ok(0),
        }
    };
    let read_errors = async {
        match stderr {
            Some(stderr) => stderr.take(MOST_OUTPUT).read_to_end(&mut errors).await,
            None => Ok(0),
        }
    };
    tokio::try_join!(read_output, read_errors)?;
    Ok((child.wait().await?, output, errors))
}

/// The last lines of a program's output, enough for its reason.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}
