//! `colibri iam`: users, roles, policies and access keys, in the store of a data directory. It works
//! beside a running daemon, which notices within a second.

mod change;
mod show;
mod simulate;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use colibri_iam::declaration::Declaration;
use colibri_store::{IamOwner, Store};

use crate::serve::ACCOUNT;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum IamCommand {
    /// Users: create, list, delete.
    #[command(subcommand)]
    User(UserCommand),
    /// Access keys of users: create, list, disable, enable, delete.
    #[command(subcommand)]
    AccessKey(AccessKeyCommand),
    /// Roles: create, trust, list, delete.
    #[command(subcommand)]
    Role(RoleCommand),
    /// Policies: put, attach, detach, delete, list, show.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Temporary keys: list, delete.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Everything there is, without secrets, as JSON.
    List,
    /// A user or a role with its policies: `user/ana`, `role/ci`, or its ARN.
    Show {
        /// `user/NAME`, `role/NAME`, or an ARN.
        principal: String,
    },
    /// Whether a user or role would be allowed to do something, and which statement says so. Exit
    /// status 1 when it would not.
    Simulate(SimulateArguments),
    /// Makes users, roles and policies as a file declares them (TOML, or JSON by its name's ending).
    Apply {
        /// The file; see docs/configuration.md.
        file: PathBuf,
        /// Deletes what the file does not name.
        #[arg(long)]
        prune: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Makes a user, who may do nothing yet.
    Create { name: String },
    /// One name a line.
    List,
    /// With its keys, its sessions and its own policies.
    Delete { name: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccessKeyCommand {
    /// Makes a key and prints it as a credentials file has it. The secret is not shown again.
    Create {
        /// Whose.
        #[arg(long)]
        user: String,
        /// Profile to print it under.
        #[arg(long, default_value = "default")]
        profile: String,
    },
    /// Key, user and whether it is good, a line each.
    List {
        /// Of this user alone.
        #[arg(long)]
        user: Option<String>,
    },
    /// Makes a key good for nothing, until it is enabled.
    Disable { id: String },
    /// Makes a key good again.
    Enable { id: String },
    /// Deletes a key.
    Delete { id: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// Makes a role.
    Create {
        name: String,
        /// Trust policy: a JSON file, or `-` for standard input.
        #[arg(long, value_name = "FILE")]
        trust: PathBuf,
        /// Longest session, seconds.
        #[arg(long, default_value_t = 3600)]
        max_session_seconds: u32,
    },
    /// Gives a role another trust policy and longest session.
    Trust {
        name: String,
        /// A JSON file, or `-` for standard input.
        trust: PathBuf,
        /// Longest session, seconds.
        #[arg(long, default_value_t = 3600)]
        max_session_seconds: u32,
    },
    /// One name a line.
    List,
    /// With its sessions and its own policies.
    Delete { name: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Makes a policy or gives it another document: one to attach, or, with --user or --role, one of
    /// that user or role alone.
    Put {
        name: String,
        /// The document: a JSON file, or `-` for standard input.
        file: PathBuf,
        #[command(flatten)]
        owner: MaybeOwner,
    },
    /// Attaches a policy to a user or a role.
    Attach {
        name: String,
        #[command(flatten)]
        owner: Owner,
    },
    /// Takes an attached policy away.
    Detach {
        name: String,
        #[command(flatten)]
        owner: Owner,
    },
    /// Deletes a policy that is attached to nobody, or, with --user or --role, one of theirs alone.
    Delete {
        name: String,
        #[command(flatten)]
        owner: MaybeOwner,
    },
    /// One name a line.
    List,
    /// Prints a policy's document.
    Show {
        name: String,
        #[command(flatten)]
        owner: MaybeOwner,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Key, owner and end, a line each.
    List,
    /// Ends a temporary key now.
    Delete { id: String },
}

/// Whose policy it is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Owner {
    /// Name of a user.
    #[arg(long)]
    user: Option<String>,
    /// Name of a role.
    #[arg(long)]
    role: Option<String>,
}

/// Whose policy it is, if it is one's alone.
#[derive(Debug, Args)]
#[group(required = false, multiple = false)]
pub(crate) struct MaybeOwner {
    /// Name of a user.
    #[arg(long)]
    user: Option<String>,
    /// Name of a role.
    #[arg(long)]
    role: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArguments {
    /// `user/NAME`, `role/NAME`, or an ARN.
    #[arg(long)]
    principal: String,
    /// `lambda:RunMicrovm`
    #[arg(long)]
    action: String,
    /// ARN of the resource, or `*`.
    #[arg(long, default_value = "*")]
    resource: String,
    /// A condition key's value, `aws:SourceIp=192.0.2.1`. Several of the same key are all its values.
    #[arg(long, value_name = "KEY=VALUE")]
    context: Vec<String>,
}

/// A command that cannot be carried out.
#[derive(Debug, thiserror::Error)]
enum IamError {
    /// The data directory has no state.
    #[error(
        "{0} holds no state of Colibri; start `colibri serve` once, or name another --data-dir"
    )]
    NoState(PathBuf),
    /// A file.
    #[error("could not read {path}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A declaration.
    #[error("the declaration {path} is not understood: {reason}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// What a command names is nowhere.
    #[error("{0} does not exist")]
    Missing(String),
    /// A principal.
    #[error(
        "`{0}` is no principal: it must be user/NAME, role/NAME, or an ARN of one of them here"
    )]
    Principal(String),
    /// A condition key.
    #[error("`{0}` is no condition key and value: it must be KEY=VALUE")]
    Context(String),
}

/// Carries a command out. `false`: it was carried out, and the answer is no.
pub(crate) async fn iam(data: &Path, command: IamCommand) -> Result<bool, Box<dyn Error>> {
    let path = data.join("state.db");
    if !path.exists() {
        return Err(IamError::NoState(data.to_owned()).into());
    }
    let store = Store::open(path).await?;
    let records = store.iam().await?;
    let now = SystemTime::now();
    match command {
        IamCommand::User(command) => change::user(&store, &records, command, now).await?,
        IamCommand::AccessKey(command) => {
            change::access_key(&store, &records, command, now).await?;
        }
        IamCommand::Role(command) => change::role(&store, &records, command, now).await?,
        IamCommand::Policy(command) => change::policy(&store, &records, command, now).await?,
        IamCommand::Session(command) => change::session(&store, &records, command).await?,
        IamCommand::List => show::list(&records),
        IamCommand::Show { principal } => show::principal(&records, &owner(&principal)?)?,
        IamCommand::Simulate(arguments) => {
            return Ok(simulate::simulate(&records, &arguments, now)?);
        }
        IamCommand::Apply { file, prune } => apply(&store, &file, prune, now).await?,
    }
    Ok(true)
}

/// Makes the store agree with a file, and says what that took.
pub(crate) async fn apply(
    store: &Store,
    file: &Path,
    prune: bool,
    now: SystemTime,
) -> Result<(), Box<dyn Error>> {
    let declaration = declaration(file)?;
    let plan = declaration.plan(&store.iam().await?, prune, now)?;
    if plan.changes.is_empty() {
        say("nothing to change");
        return Ok(());
    }
    store.change_iam(plan.changes).await?;
    for line in &plan.lines {
        say(line);
    }
    Ok(())
}

/// Reads a declaration: JSON where the file's name says so, TOML otherwise.
pub(crate) fn declaration(file: &Path) -> Result<Declaration, Box<dyn Error>> {
    let text = text_of(file)?;
    let malformed = |reason: String| IamError::Malformed {
        path: file.to_owned(),
        reason,
    };
    let json = file.extension().is_some_and(|ending| ending == "json");
    Ok(if json {
        serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?
    } else {
        toml::from_str(&text).map_err(|error| malformed(error.to_string()))?
    })
}

fn text_of(path: &Path) -> Result<String, IamError> {
    let read = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|source| IamError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// A user or role as people name it.
fn owner(text: &str) -> Result<IamOwner, IamError> {
    let prefix = format!("arn:aws:iam::{ACCOUNT}:");
    let name = text.strip_prefix(&prefix).unwrap_or(text);
    match name.split_once('/') {
        Some(("user", name)) if !name.is_empty() => Ok(IamOwner::User(name.to_owned())),
        Some(("role", name)) if !name.is_empty() => Ok(IamOwner::Role(name.to_owned())),
        _ => Err(IamError::Principal(text.to_owned())),
    }
}

#[expect(clippy::print_stdout, reason = "what a command was asked for")]
fn say(text: impl std::fmt::Display) {
    println!("{text}");
}
