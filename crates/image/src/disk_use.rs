//! How much disk something takes: a build while it runs, a tree when it is done.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::command::HostCommand;

/// Bound of one measurement. A tree that takes longer to look through is taken for one that is too large.
const BOUND: Duration = Duration::from_secs(120);

/// What an inode counts for, bytes: files without content must not be free.
const INODE: u64 = 4096;

/// Bytes on disk and inodes of all arguments together, each in the last line of a listing. `du` walks
/// trees of any depth, which paths do not name; what vanishes meanwhile is no failure.
const MEASURE: &str = r#"du -sxcB1 -- "$@" 2>/dev/null | tail -n 1; du -sxc --inodes -- "$@" 2>/dev/null | tail -n 1"#;

/// Bytes that a build which began at `started` has written, [`INODE`] for each file besides: its own
/// directory, and the layers of the storage at `root` made since. Layers of another build that runs at the
/// same time count too: the storage does not say whose they are, and a bound that is met early is safe.
pub(crate) async fn written_since(started: SystemTime, root: &Path, work: &Path) -> u64 {
    let root = root.join("overlay");
    let layers = move || {
        let layers = fs::read_dir(root).into_iter().flatten().flatten();
        let is_new = |entry: &fs::DirEntry| {
            entry
                .metadata()
                .and_then(|layer| layer.created().or_else(|_| layer.modified()))
                .is_ok_and(|at| at >= started)
        };
        // Only what was written: `merged` shows the layers below again.
        let new = layers.filter(is_new).map(|layer| layer.path().join("diff"));
        new.collect::<Vec<PathBuf>>()
    };
    let layers = tokio::task::spawn_blocking(layers)
        .await
        .unwrap_or_default();
    allocated(layers.iter().map(PathBuf::as_path).chain([work])).await
}

/// What trees take on disk, not following links or other file systems.
pub(crate) async fn allocated<'a>(trees: impl Iterator<Item = &'a Path>) -> u64 {
    let measured = HostCommand::new("sh", Path::new("/"))
        .args(["-c", MEASURE, "sh"])
        .args(trees)
        .output(BOUND)
        .await;
    match measured {
        Ok(totals) => sum_of(&totals).unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "could not measure what a build has written");
            u64::MAX
        }
    }
}

/// `BYTES total`, and `INODES total` in the next line.
fn sum_of(totals: &str) -> Option<u64> {
    let mut numbers = totals
        .lines()
        .map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let (bytes, inodes) = (numbers.next()??, numbers.next()??);
    Some(bytes.saturating_add(inodes.saturating_mul(INODE)))
}

/// Visits everything below `tree`, directories before what is in them; `visit` says whether to go into
/// one. What vanishes or cannot be read meanwhile is left out. No recursion: a hostile tree is deep.
pub(crate) fn walk(tree: &Path, visit: &mut impl FnMut(&Path, &Metadata) -> bool) {
    let mut open: Vec<PathBuf> = vec![tree.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let path = entry.path();
            if visit(&path, &metadata) && metadata.is_dir() {
                open.push(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::allocated;

    #[tokio::test]
    async fn a_tree_deeper_than_any_path_is_measured_and_removed_whole() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        // As a hostile step makes it: by going in, not by naming it.
        let dug = std::process::Command::new("perl")
            .args(["-e", r#"for (1..60) { mkdir "x"x200; chdir "x"x200 or die } open F, ">big"; print F "y"x3000000"#])
            .current_dir(&tree)
            .status();
        assert!(dug.unwrap().success());
        let measured = allocated([tree.as_path()].into_iter()).await;
        assert!(measured > 3_000_000 && measured < 10_000_000, "{measured}");
        crate::leftovers::remove_directory(tree.clone()).await;
        assert!(!tree.exists());
        assert_eq!(allocated([Path::new("/nowhere")].into_iter()).await, 0);
    }
}
