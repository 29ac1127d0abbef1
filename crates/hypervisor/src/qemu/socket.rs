//! Unix sockets in a machine's directory, whose path may be longer than a socket address allows
//! (108 bytes): they are reached through the directory's descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

/// Binds a listening socket; one that is there already is replaced.
pub(super) fn bind(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    let (_directory, path) = short_path(directory, name)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(UnixListener::bind(path)?.into())
}

/// Connects to a socket.
pub(super) async fn connect(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let (_directory, path) = short_path(directory, name)?;
    UnixStream::connect(path).await
}

fn short_path(directory: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    let directory = File::open(directory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()));
    Ok((directory, path))
}
