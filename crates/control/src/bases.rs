//! Removing bases that nothing uses any more: the builds of deleted images and versions, once the last
//! MicroVM that maps them has ended.

use crate::control::Shared;
use crate::failure::chain;
use crate::launch::remove_directory;
use crate::stocking;

/// Removes what may be removed. What fails stays for the next time.
pub(crate) async fn sweep(shared: &Shared) {
    let removable = match shared.store.removable_builds().await {
        Ok(listing) => listing,
        Err(error) => {
            tracing::error!(error = %chain(&error), "could not look for bases to remove");
            return;
        }
    };
    for build in removable.rows {
        let directory = shared
            .settings
            .base_directory(&build.image_name, build.version, &build.id);
        // Those that wait would keep its files from being freed.
        stocking::drain(shared, &build.id).await;
        if let Err(error) = remove_directory(&directory).await {
            tracing::error!(build_id = %build.id, error = %chain(&error), "could not remove a base");
            continue;
        }
        // The directories above it go when they are empty.
        for parent in directory.ancestors().skip(1).take(2) {
            if tokio::fs::remove_dir(parent).await.is_err() {
                break;
            }
        }
        if let Err(error) = shared.store.forget_build(build.id.clone()).await {
            tracing::error!(build_id = %build.id, error = %chain(&error), "could not forget a removed base");
        }
    }
}
