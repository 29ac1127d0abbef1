//! The container storage of image builds: one of Colibri's own, so that whatever is in it may be
//! removed, with the host's storage beside it, read-only, where locally made base images are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard};

use crate::command::{CommandError, HostCommand};
use crate::disk_use;
use crate::fetched::Fetched;
use crate::settings::BuilderSettings;

/// What a build's image is called in the storage; the build's id follows.
const IMAGE_PREFIX: &str = "localhost/colibri/";

/// Bound for an operation on the storage that moves no image.
pub(crate) const STORAGE_TIME: Duration = Duration::from_secs(300);

/// Images come from registries and from the storage, nothing else: `FROM oci:/path` and its like would
/// read the host's files. Nobody's signatures are asked for, as with Docker.
const POLICY: &str = r#"{"default":[{"type":"reject"}],"transports":{
    "docker":{"":[{"type":"insecureAcceptAnything"}]},
    "containers-storage":{"":[{"type":"insecureAcceptAnything"}]}}}"#;

/// What Docker's users expect of `FROM python:3.12`; Debian's configuration names no registry for it.
const SHORT_NAMES: &str = "unqualified-search-registries = [\"docker.io\"]\n";

/// The storage.
#[derive(Debug)]
pub(crate) struct ContainerStorage {
    root: PathBuf,
    run: PathBuf,
    base: Option<PathBuf>,
    registries: PathBuf,
    fetched: Fetched,
    /// What the storage may take when no build is at work, bytes.
    budget_bytes: u64,
    /// Held shared by builds; exclusively by who removes what no build holds any more.
    users: RwLock<()>,
}

/// A build uses the storage: nothing of it is pruned meanwhile.
#[derive(Debug)]
pub(crate) struct StorageUse<'a>(
    #[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'a, ()>,
);

impl ContainerStorage {
    pub(crate) fn new(settings: &BuilderSettings) -> Self {
        Self {
            root: settings.storage_directory.clone(),
            run: settings.run_directory.clone(),
            base: settings.base_storage.clone(),
            registries: settings.registries_file.clone(),
            fetched: Fetched::below(settings.storage_directory.with_file_name("bases")),
            budget_bytes: settings.base_images_bytes,
            users: RwLock::default(),
        }
    }

    /// Makes the storage's directories and files; safe to repeat.
    pub(crate) fn prepare(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        for directory in [&self.root, &self.run, &self.run.join("overlay")] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        // Shifting owners by idmapped mounts loses the shift in committed layers (measured with
        // buildah 1.28 on Linux 6.18: a second stage finds its files owned by nobody). This is
        // containers/storage's own note that the feature is missing; newer releases have the variable
        // that `buildah` sets below.
        let _ = std::fs::remove_file(self.run.join("overlay/idmapped-lower-dir-true"));
        std::fs::write(
            self.run.join("overlay/idmapped-lower-dir-false"),
            "shifted owners are not committed",
        )?;
        std::fs::write(self.policy(), POLICY)?;
        std::fs::write(
            self.run.join("registries.conf"),
            registries(&std::fs::read_to_string(&self.registries).unwrap_or_default()),
        )
    }

    /// `buildah` on this storage.
    pub(crate) fn buildah(&self, scratch: &Path) -> HostCommand {
        HostCommand::new("buildah", scratch)
            .env("_CONTAINERS_OVERLAY_DISABLE_IDMAP", "yes")
            .env(
                "CONTAINERS_REGISTRIES_CONF",
                self.run.join("registries.conf"),
            )
            .args(self.arguments())
    }

    /// As [`ContainerStorage::buildah`], started through `wrapper`, a program that executes the rest of
    /// its arguments.
    pub(crate) fn wrapped_buildah(&self, wrapper: &[String], scratch: &Path) -> HostCommand {
        let Some((program, arguments)) = wrapper.split_first() else {
            return self.buildah(scratch);
        };
        HostCommand::new(program, scratch)
            .env("_CONTAINERS_OVERLAY_DISABLE_IDMAP", "yes")
            .env(
                "CONTAINERS_REGISTRIES_CONF",
                self.run.join("registries.conf"),
            )
            .args(arguments)
            .arg("buildah")
            .args(self.arguments())
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--storage-driver".to_owned(),
            "overlay".to_owned(),
            "--root".to_owned(),
            self.root.display().to_string(),
            "--runroot".to_owned(),
            self.run.display().to_string(),
            // Each container gets its base's files under its own owners: without this every one of them
            // is copied for it (measured with a 180 MB base: 25 s a build instead of 7 s).
            "--storage-opt".to_owned(),
            "overlay.mountopt=metacopy=on".to_owned(),
        ];
        let base = self
            .base
            .as_ref()
            .filter(|base| base.join("overlay-images").is_dir() && **base != self.root);
        if let Some(base) = base {
            arguments.extend([
                "--storage-opt".to_owned(),
                format!("overlay.imagestore={}", base.display()),
            ]);
        }
        arguments
    }

    /// Directory of the storage.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// File that says which images are accepted.
    pub(crate) fn policy(&self) -> PathBuf {
        self.run.join("policy.json")
    }

    /// The account of base images that were fetched.
    pub(crate) fn fetched(&self) -> &Fetched {
        &self.fetched
    }

    /// Removes a base image that was fetched. One that a build just uses loses its name and goes later.
    pub(crate) async fn remove_fetched(&self, image: &str, scratch: &Path) {
        let removed = self
            .buildah(scratch)
            .args(["rmi", "--force", "--", image])
            .output(STORAGE_TIME)
            .await;
        if let Err(error) = removed {
            tracing::warn!(%error, image, "could not remove a base image");
        }
        self.fetched.forget(image);
    }

    /// Name of a build's image.
    pub(crate) fn image_name(build_id: &str) -> String {
        format!("{IMAGE_PREFIX}{build_id}")
    }

    /// Keeps others from pruning while a build uses the storage.
    pub(crate) async fn in_use(&self) -> StorageUse<'_> {
        StorageUse(self.users.read().await)
    }

    /// Removes a build's container and image. What was never made is no error.
    pub(crate) async fn remove_build(&self, build_id: &str, scratch: &Path) {
        let container = container_name(build_id);
        let image = Self::image_name(build_id);
        for arguments in [
            vec!["umount", &container],
            vec!["rm", &container],
            vec!["rmi", "--force", &image],
        ] {
            // Failing is the usual case here: most builds leave only some of the three.
            let _ = self
                .buildah(scratch)
                .args(arguments)
                .output(STORAGE_TIME)
                .await;
        }
    }

    /// Removes what no build uses: containers of killed builds, images without a name, and of the base images
    /// that were fetched the least recently used, until all fit into their budget. Does nothing while a build
    /// is at work; the last one to end prunes for all.
    pub(crate) async fn prune(&self, scratch: &Path) {
        let Ok(_alone) = self.users.try_write() else {
            return;
        };
        for arguments in [vec!["rm", "--all"], vec!["rmi", "--prune"]] {
            if let Err(error) = self
                .buildah(scratch)
                .args(arguments)
                .output(STORAGE_TIME)
                .await
            {
                tracing::warn!(%error, "could not prune the container storage");
            }
        }
        while let Some(image) = self.fetched.least_recently_used() {
            if disk_use::allocated([self.root.as_path()].into_iter()).await <= self.budget_bytes {
                break;
            }
            tracing::info!(
                image,
                "removing a base image: they take more than their budget"
            );
            self.remove_fetched(&image, scratch).await;
        }
        // `buildah` mounts the storage's directory on itself and leaves that so; busy is no harm.
        let overlay = self.root.join("overlay");
        if let Err(error) = rustix::mount::unmount(&overlay, rustix::mount::UnmountFlags::NOFOLLOW)
        {
            tracing::debug!(%error, "the container storage stays mounted");
        }
    }

    /// Removes every image that an earlier daemon's builds named, and then what [`Self::prune`] does.
    pub(crate) async fn sweep(&self, scratch: &Path) -> Result<(), CommandError> {
        let listed = self
            .buildah(scratch)
            .args(["images", "--json"])
            .output(STORAGE_TIME)
            .await?;
        self.prune(scratch).await;
        for name in build_images(&listed) {
            self.buildah(scratch)
                .args(["rmi", "--force", &name])
                .output(STORAGE_TIME)
                .await?;
        }
        Ok(())
    }
}

/// Name of the container that a build's image is mounted through.
pub(crate) fn container_name(build_id: &str) -> String {
    format!("colibri-{build_id}")
}

/// Names of build images in the answer of `buildah images --json`.
fn build_images(json: &str) -> Vec<String> {
    let listed: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let images = listed.as_array().into_iter().flatten();
    let names = images
        .filter_map(|image| image["names"].as_array())
        .flatten();
    names
        .filter_map(|name| name.as_str())
        .filter(|name| name.starts_with(IMAGE_PREFIX))
        .map(str::to_owned)
        .collect()
}

/// The host's configuration, with the registry of short names added where it names none.
fn registries(host: &str) -> String {
    let says = |start: &str| {
        host.lines()
            .any(|line| line.trim_start().starts_with(start))
    };
    // `[registries.…]` is the first version of the format, in which the key would be an error.
    if says("unqualified-search-registries") || says("[registries") {
        return host.to_owned();
    }
    format!("{SHORT_NAMES}{host}")
}

#[cfg(test)]
mod tests {
    use super::{build_images, registries};

    #[test]
    fn only_names_of_builds_are_swept() {
        let json = r#"[{"names":["localhost/colibri/1:latest"]},{"names":["docker.io/library/python:3"]},{"names":null}]"#;
        assert_eq!(build_images(json), ["localhost/colibri/1:latest"]);
        assert!(build_images("null").is_empty());
    }

    #[test]
    fn short_names_mean_docker_hub_unless_the_host_says_otherwise() {
        assert!(
            registries("# unqualified-search-registries = []\n")
                .starts_with("unqualified-search-registries")
        );
        let own = "unqualified-search-registries = [\"quay.io\"]\n";
        assert_eq!(registries(own), own);
    }
}
