//! How much disk something takes: a build while it runs, a tree when it is done.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Size of a block in `stat(2)`'s count.
const STAT_BLOCK: u64 = 512;

/// Bytes that a build which began at `started` has written: its own directory, and the layers of the
/// storage at `root` made since. Layers of another build that runs at the same time count too: the
/// storage does not say whose they are, and a bound that is met early is safe.
pub(crate) async fn written_since(started: SystemTime, root: &Path, work: &Path) -> u64 {
    let (root, work) = (root.join("overlay"), work.to_owned());
    let measure = move || {
        let layers = fs::read_dir(root).into_iter().flatten().flatten();
        let is_new = |entry: &fs::DirEntry| {
            entry
                .metadata()
                .and_then(|layer| layer.created().or_else(|_| layer.modified()))
                .is_ok_and(|at| at >= started)
        };
        // Only what was written: `merged` shows the layers below again.
        let new = layers.filter(is_new).map(|layer| layer.path().join("diff"));
        new.chain([work]).map(|tree| allocated(&tree)).sum()
    };
    tokio::task::spawn_blocking(measure).await.unwrap_or(0)
}

/// Bytes that a tree takes on disk, not following links or other file systems. Blocks.
fn allocated(tree: &Path) -> u64 {
    let Ok(root) = fs::symlink_metadata(tree) else {
        return 0;
    };
    let mut total = 0;
    walk(tree, &mut |_, metadata| {
        total += metadata.blocks() * STAT_BLOCK;
        metadata.dev() == root.dev()
    });
    total
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
