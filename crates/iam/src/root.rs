//! The root credentials of a data directory, in the files that every AWS client reads:
//! `credentials` and `config`, profile `default`.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::credential::{Credential, Secret};
use crate::identity::Identity;
use crate::keys;

/// Longest file that is read, bytes; those made here are far shorter.
const MAX_LENGTH: u64 = 64 * 1024;
/// Why the root credentials could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum RootCredentialsError {
    /// A file operation failed.
    #[error("could not {attempted} {path}")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is there and holds no key.
    #[error(
        "{path} has no access key in its profile 'default': mend it, or remove it to have a new key made"
    )]
    Unusable {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("could not get random bytes for a new access key from the system")]
    Random(#[source] rand::rand_core::OsError),
}

/// The root credential of a data directory: read from `DIR/credentials` (mode 0600), which is made
/// with a new key when it is not there, as `DIR/config` is with the region. Both are written whole or
/// not at all, and never written again.
///
/// # Errors
/// [`RootCredentialsError`] when the files cannot be made or read.
pub fn open(
    directory: &Path,
    region: &str,
    account: &str,
) -> Result<Credential, RootCredentialsError> {
    let path = directory.join("credentials");
    if !exists(&path)? {
        let (id, secret) = keys::access_key("AKIA").map_err(RootCredentialsError::Random)?;
        let text = format!(
            "[default]\naws_access_key_id = {id}\naws_secret_access_key = {}\n",
            secret.expose()
        );
        create(directory, &path, &text)?;
    }
    let config = directory.join("config");
    if !exists(&config)? {
        create(
            directory,
            &config,
            &format!("[default]\nregion = {region}\n"),
        )?;
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600))
        .map_err(failed("restrict the access to", &path))?;
    let (access_key_id, secret) =
        key_of(&read(&path)?).ok_or(RootCredentialsError::Unusable { path })?;
    Ok(Credential {
        identity: Identity::root(account, &access_key_id),
        secret,
        session_token: None,
    })
}

fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootCredentialsError {
    let path = path.to_owned();
    move |source| RootCredentialsError::Io {
        attempted,
        path,
        source,
    }
}

fn exists(path: &Path) -> Result<bool, RootCredentialsError> {
    path.try_exists().map_err(failed("look for", path))
}

/// Makes a file of mode 0600. One that another process made meanwhile stays.
fn create(directory: &Path, path: &Path, text: &str) -> Result<(), RootCredentialsError> {
    let mut file =
        tempfile::NamedTempFile::new_in(directory).map_err(failed("create a file beside", path))?;
    file.write_all(text.as_bytes())
        .map_err(failed("write", path))?;
    file.as_file().sync_all().map_err(failed("write", path))?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(refusal) if refusal.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(refusal) => return Err(failed("create", path)(refusal.error)),
    }
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("keep", path))
}

fn read(path: &Path) -> Result<String, RootCredentialsError> {
    let length = fs::metadata(path).map_err(failed("read", path))?.len();
    if length > MAX_LENGTH {
        return Err(RootCredentialsError::Unusable {
            path: path.to_owned(),
        });
    }
    fs::read_to_string(path).map_err(failed("read", path))
}

/// Key id and secret of the profile `default`.
fn key_of(text: &str) -> Option<(String, Secret)> {
    let (mut id, mut secret, mut in_default) = (None, None, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_default = line == "[default]";
        } else if let Some((name, value)) = line.split_once('=').filter(|_| in_default) {
            match name.trim() {
                "aws_access_key_id" => id = Some(value.trim().to_owned()),
                "aws_secret_access_key" => secret = Some(value.trim().to_owned()),
                _ => {}
            }
        }
    }
    let id = id.filter(|id| !id.is_empty())?;
    Some((id, Secret::new(secret.filter(|secret| !secret.is_empty())?)))
}
