//! The `colibri` binary: the daemon, and the commands that people type.
//!
//! It reads settings, puts the crates together and speaks to the terminal; what Colibri does is
//! theirs.

mod audit;
mod base_versions;
mod cold_boot;
mod doctor;
mod driver;
mod endpoint_limits;
mod glue;
mod iam;
mod lives;
mod quotas;
mod serve;
mod settings;
mod vpc;

use std::error::Error;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::settings::{Settings, SettingsError};

/// What the log says unless RUST_LOG says otherwise. The S3 library logs clients' mistakes as errors of
/// its own, and at its lowest level whole requests.
const DEFAULT_LOG: &str = "info,s3s=off";

/// Self-hosted Lambda MicroVMs: snapshot-started, suspendable virtual machines, each behind its own
/// HTTPS endpoint, driven by the AWS CLI and SDKs.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon: the AWS API, image builds, MicroVMs and their endpoints.
    ///
    /// Prints one line on standard output when it can serve. Its log goes to standard error; set
    /// RUST_LOG to choose what it says. MicroVMs outlive it: stop it, upgrade it, start it again.
    Serve {
        #[command(flatten)]
        place: PlaceArguments,
        /// Address of the AWS API [default: 127.0.0.1:4570].
        #[arg(long, value_name = "ADDRESS")]
        api_listen: Option<SocketAddr>,
        /// Address of the MicroVMs' HTTPS endpoints [default: 127.0.0.1:8443, on both loopbacks].
        #[arg(long, value_name = "ADDRESS")]
        ingress_listen: Option<String>,
        /// Reproduces oddities of the live service, for tests of clients; see docs/aws-quirks.md.
        #[arg(long)]
        aws_quirks: bool,
    },
    /// Says, line by line, what this machine has and lacks, and the command that mends each.
    Doctor {
        #[command(flatten)]
        place: PlaceArguments,
        /// Prints JSON instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Users, roles, policies and access keys. Works beside a running daemon.
    Iam {
        #[command(flatten)]
        place: PlaceArguments,
        #[command(subcommand)]
        command: iam::IamCommand,
    },
    /// Boots an image version without its snapshot and prints how long its first answer took: what
    /// launches are measured against. Works beside a running daemon.
    ColdBoot {
        #[command(flatten)]
        place: PlaceArguments,
        /// Name of the image.
        #[arg(long)]
        image: String,
        /// Version of the image.
        #[arg(long, default_value = "1.0")]
        image_version: String,
        /// Port of the application.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Path to ask for.
        #[arg(long, default_value = "/")]
        path: String,
    },
}

/// Where things are.
#[derive(Debug, Args)]
struct PlaceArguments {
    /// Configuration file (TOML); see docs/configuration.md.
    #[arg(long, value_name = "FILE", env = "COLIBRI_CONFIG")]
    config: Option<PathBuf>,
    /// Directory of all state [default: ./colibri-data].
    #[arg(long, value_name = "DIR", env = "COLIBRI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Directory of the guests' kernels and initial RAM file systems.
    #[arg(long, value_name = "DIR", env = "COLIBRI_GUEST_DIR")]
    guest_dir: Option<PathBuf>,
}

impl PlaceArguments {
    /// The configuration file's settings, with the command line's above them.
    fn settings(self) -> Result<Settings, SettingsError> {
        let mut settings = Settings::read(self.config.as_deref())?;
        settings.data_dir = self.data_dir.or(settings.data_dir);
        settings.guest_dir = self.guest_dir.or(settings.guest_dir);
        Ok(settings)
    }
}

fn main() -> ExitCode {
    let program = Program::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG)),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would say on stderr that stderr cannot be written, and panic where it is: a full disk must cost
        // lines of the log, no MicroVM's actor.
        .log_internal_errors(false)
        .init();
    match run(program.command) {
        Ok(code) => code,
        Err(error) => {
            say_error(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Serve {
            place,
            api_listen,
            ingress_listen,
            aws_quirks,
        } => {
            let mut settings = place.settings()?;
            if let Some(address) = api_listen {
                settings.api.listen = address;
            }
            settings.ingress.listen = ingress_listen.or(settings.ingress.listen);
            settings.aws_quirks |= aws_quirks;
            serve::serve(settings).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor { place, json } => doctor::doctor(&place.settings()?, json).await,
        Command::Iam { place, command } => {
            let allowed = iam::iam(&place.settings()?.data_dir(), command).await?;
            Ok(if allowed {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::ColdBoot {
            place,
            image,
            image_version,
            port,
            path,
        } => {
            cold_boot::cold_boot(&place.settings()?, &image, &image_version, port, &path).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The error and everything below it: `Display` never repeats a source.
#[expect(clippy::print_stderr, reason = "the program's own words to its user")]
fn say_error(error: &dyn Error) {
    eprint!("colibri: {error}");
    let mut cause = error.source();
    while let Some(below) = cause {
        eprint!(": {below}");
        cause = below.source();
    }
    eprintln!();
}
