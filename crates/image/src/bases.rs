//! The base images of a build: there before it begins, fetched over the host's network where they are not,
//! fetched anew when the copy is old, and looked at for instructions that a Dockerfile could not hold either.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::container::{ContainerBuild, internal};
use crate::container_config;
use crate::dockerfile;
use crate::request::BuildFailure;
use crate::run_flags;
use crate::storage::STORAGE_TIME;

/// Bound for fetching an image anew of which there is a copy.
const REFRESH_TIME: Duration = Duration::from_secs(120);

impl ContainerBuild<'_> {
    /// Sees to it that the images which the Dockerfile starts from are there, and harmless.
    pub(crate) async fn fetch_bases(&self, deadline: Instant) -> Result<(), BuildFailure> {
        let text = self.read_dockerfile()?;
        self.check_run_flags("Dockerfile", &text)?;
        let bases = dockerfile::base_images(&text)
            .map_err(|error| self.failed(&format!("Of the Dockerfile's base images: {error}.")))?;
        for image in &bases {
            self.fetch_base(image, deadline).await?;
        }
        let readings = dockerfile::readings(&text).unwrap_or_default();
        let others = dockerfile::possible_bases(&readings);
        for image in others.iter().filter(|image| !bases.contains(image)) {
            if let Some(inspection) = self.inspect(image).await {
                self.check_triggers(image, &inspection).await?;
            }
        }
        Ok(())
    }

    fn read_dockerfile(&self) -> Result<String, BuildFailure> {
        let path = self.context.join("Dockerfile");
        let length = std::fs::metadata(&path)
            .map_err(|error| BuildFailure::io("read the Dockerfile", &error))?
            .len();
        if length > dockerfile::LARGEST {
            return Err(self.failed("the Dockerfile is larger than 1 MiB"));
        }
        let text = std::fs::read(&path)
            .map_err(|error| BuildFailure::io("read the Dockerfile", &error))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    async fn fetch_base(&self, image: &str, deadline: Instant) -> Result<(), BuildFailure> {
        let fetched = self.storage.fetched();
        match self.inspect(image).await {
            Some(_) if self.is_old(image) => self.refresh(image, deadline).await,
            Some(_) => {}
            None => {
                self.log.append(&format!("fetching the base image {image}"));
                if let Err(reason) = self.pull(image, "missing", deadline).await? {
                    let reason = format!("could not fetch the base image {image}: {reason}");
                    return Err(self.failed(&reason));
                }
                fetched.note_fetched(image);
            }
        }
        fetched.note_used(image);
        let inspection = self.inspect(image).await.unwrap_or_default();
        self.check_triggers(image, &inspection).await
    }

    /// Whether the copy of an image came from a registry so long ago that there may be a newer one. An image
    /// that was never fetched was made on this host, and a digest names one content for ever.
    fn is_old(&self, image: &str) -> bool {
        let age = self
            .storage
            .fetched()
            .fetched_at(image)
            .map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        !image.contains('@') && age.is_some_and(|age| age >= self.settings.base_image_age)
    }

    /// Fetches an image anew; the copy serves where that fails.
    async fn refresh(&self, image: &str, deadline: Instant) {
        self.log
            .append(&format!("fetching the base image {image} anew"));
        let deadline = deadline.min(Instant::now() + REFRESH_TIME);
        match self.pull(image, "always", deadline).await {
            Ok(Ok(())) => self.storage.fetched().note_fetched(image),
            Ok(Err(reason)) => self.log.append(&format!(
                "could not fetch {image} anew, so the copy that is here is used: {reason}"
            )),
            Err(failure) => self.log.append(&format!(
                "could not fetch {image} anew, so the copy that is here is used: {}",
                failure.sentence
            )),
        }
    }

    /// Downloads an image, within the build's bounds of time and disk; its progress goes to the log.
    /// `Ok(Err(_))` holds the reason that `buildah` gave.
    async fn pull(
        &self,
        image: &str,
        policy: &str,
        deadline: Instant,
    ) -> Result<Result<(), String>, BuildFailure> {
        let pull = self
            .storage
            .buildah(&self.scratch())
            .with_fetch_variables()
            .args(["pull", "--policy", policy, "--signature-policy"])
            .arg(self.storage.policy())
            .args(["--", image]);
        let started = SystemTime::now();
        let running = pull.stream().map_err(|error| internal(&error))?;
        let pulled = self.follow(running, deadline).await?;
        // One that was quicker than the watch over the disk.
        if pulled.is_ok() && self.has_written_too_much(started).await {
            self.storage.remove_fetched(image, &self.scratch()).await;
            return Err(self.disk_full());
        }
        Ok(pulled)
    }

    /// What the storage says about an image; `None` where it is not there.
    async fn inspect(&self, image: &str) -> Option<String> {
        let inspect = self
            .storage
            .buildah(&self.scratch())
            .args(["inspect", "--type", "image", "--", image]);
        inspect.output(STORAGE_TIME).await.ok()
    }

    /// Refuses a base image whose triggers a Dockerfile could not hold either. One that was fetched is
    /// removed: another Dockerfile might name it in a way that is not seen here.
    async fn check_triggers(&self, image: &str, inspection: &str) -> Result<(), BuildFailure> {
        for trigger in container_config::triggers(inspection)? {
            let of = format!("base image {image}");
            if let Err(refused) = self.check_run_flags(&of, &format!("ONBUILD {trigger}")) {
                if self.storage.fetched().fetched_at(image).is_some() {
                    self.storage.remove_fetched(image, &self.scratch()).await;
                }
                return Err(refused);
            }
        }
        Ok(())
    }

    fn check_run_flags(&self, of: &str, text: &str) -> Result<(), BuildFailure> {
        match run_flags::refused(text) {
            Some(reason) => Err(self.failed(&format!("A RUN instruction of the {of} {reason}."))),
            None => Ok(()),
        }
    }
}
