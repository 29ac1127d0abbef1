//! Keeps the warm pool stocked, and spares: one process at a time, in the background, after everything that
//! somebody waits for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use colibri_network::SlotUsage;
use colibri_store::{BuildState, ImageState, StoreError, VersionState, VersionStatus};
use colibri_wire::check::configuration::BuildPlan;
use colibri_wire::shape::configuration::ImageConfiguration;
use tokio::time::sleep;

use crate::control::Shared;
use crate::documents;
use crate::failure::chain;
use crate::pool::{Kind, Made, Source};
use crate::pooled::{self, MakeFailure, Recipe};
use crate::restock;
use crate::run::configuration_as_given;

/// How often the host's memory, idle versions and free slots are looked at while anything waits.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps the stock until the pool is closed.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let _ended = shared.pool.ended.clone().drop_guard();
    restock::begin(&shared).await;
    while !shared.pool.is_closing() {
        discard_unwanted(&shared).await;
        if may_make(&shared)
            && let Some((source, kind)) = shared.pool.wanting()
        {
            make(&shared, &source, kind).await;
            continue;
        }
        let look = async {
            if shared.pool.is_in_use() {
                sleep(LOOK).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = shared.pool.changed() => {}
            () = look => {}
        }
    }
    // Lost in the last moment.
    for machine in shared.pool.take_surplus() {
        machine.discard().await;
    }
}

async fn discard_unwanted(shared: &Arc<Shared>) {
    for source in shared.pool.to_recheck() {
        match recipe(shared, &source).await {
            Ok(Some(recipe)) => shared
                .pool
                .set_launched(&source.build_id, recipe.is_launched),
            Ok(None) => drain(shared, &source.build_id).await,
            Err(error) => {
                tracing::error!(error = %chain(&error), "could not look an image version up");
                shared.pool.recheck_later();
            }
        }
    }
    let mut unwanted = shared.pool.take_surplus();
    if is_crowded(shared.network.usage()) || shared.settings.host_memory.is_short() {
        unwanted.extend(shared.pool.take_any());
    }
    for machine in unwanted {
        machine.discard().await;
    }
}

/// Ends what waits of a build.
pub(crate) async fn drain(shared: &Shared, build_id: &str) {
    for machine in shared.pool.drain(build_id) {
        machine.discard().await;
    }
}

/// Fewer than a quarter of the slots are free (one, on a small host): those are for who needs one.
pub(crate) fn is_crowded(usage: SlotUsage) -> bool {
    usage.taken > usage.capacity - (usage.capacity / 4).max(1).min(usage.capacity)
}

fn may_make(shared: &Shared) -> bool {
    let usage = shared.network.usage();
    let with_one_more = SlotUsage {
        taken: usage.taken.saturating_add(1),
        ..usage
    };
    let settings = &shared.settings;
    let is_building = shared.build_turns.available_permits() < settings.concurrent_builds.max(1);
    !is_building && !is_crowded(with_one_more) && !settings.host_memory.is_short()
}

async fn make(shared: &Arc<Shared>, source: &Source, kind: Kind) {
    let recipe = match recipe(shared, source).await {
        Ok(Some(recipe)) if kind == Kind::Machine && !recipe.is_launched => {
            return shared.pool.set_launched(&source.build_id, false);
        }
        Ok(Some(recipe)) => recipe,
        Ok(None) => return drain(shared, &source.build_id).await,
        Err(error) => {
            tracing::error!(error = %chain(&error), "could not look an image version up");
            shared.pool.made(source, kind, Made::Failed);
            return;
        }
    };
    let abandon = shared.pool.making(source, kind);
    let made = match pooled::make(shared, &recipe, kind, &abandon).await {
        Ok(machine) => {
            tracing::debug!(
                machine = machine.id,
                image = source.image_name,
                version = source.version,
                "a machine waits in the pool"
            );
            Made::Machine(machine)
        }
        Err(MakeFailure::Abandoned) => Made::Abandoned,
        Err(failure) => {
            tracing::warn!(image = source.image_name, version = source.version, error = %chain(&failure), "could not make a machine for the pool");
            Made::Failed
        }
    };
    if let Some(unwanted) = shared.pool.made(source, kind, made) {
        unwanted.discard().await;
    }
}

/// How a machine of a build is made; nothing where the build is of no use on this host.
async fn recipe(shared: &Shared, source: &Source) -> Result<Option<Recipe>, StoreError> {
    let store = &shared.store;
    let Some(image) = store.image(source.image_name.clone()).await? else {
        return Ok(None);
    };
    if image.state == ImageState::Deleting {
        return Ok(None);
    }
    let build = store.build(source.build_id.clone()).await?;
    let is_usable = build.is_some_and(|build| {
        build.image_id == image.id
            && build.state == BuildState::Successful
            && !build.condemned
            && build.chipset_generation == shared.host.generation
    });
    let version = store.version(image.id, source.version).await?;
    let version = version.filter(|version| version.state == VersionState::Successful);
    let (true, Some(version)) = (is_usable, version) else {
        return Ok(None);
    };
    let is_launched =
        image.latest_active == Some(source.version) && version.status == VersionStatus::Active;
    let key = format!("{}/{}", image.id, version.version);
    let configuration: ImageConfiguration =
        documents::read("image_versions", &key, &version.config)?;
    let plan = BuildPlan::of(
        &configuration_as_given(configuration),
        &shared.settings.place,
    );
    let plan = plan.map_err(|error| StoreError::CorruptRow {
        table: "image_versions",
        key,
        reason: error.to_string(),
    })?;
    let reach = shared.egress_of(&[plan.egress.to_string()]).await?;
    let base: PathBuf =
        shared
            .settings
            .base_directory(&source.image_name, source.version, &source.build_id);
    Ok(Some(Recipe {
        base,
        reach,
        is_launched,
    }))
}
