//! What the pool begins with: what waited when an earlier daemon ended is gone, and the next launch should not
//! be the one that pays for it. The versions that were launched or built last are stocked anew, as many as their
//! last launches ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use colibri_store::{BuildState, Image, ImageState, StoreError};

use crate::control::Shared;
use crate::failure::chain;
use crate::pool::Source;
use crate::stock::RECENT;

/// Versions that a start stocks, the last used first.
const VERSIONS: usize = 8;
/// Those of this time.
const LOOK_BACK: Duration = Duration::from_secs(24 * 3600);
/// Rows that are read at a time where a list is walked.
const PAGE: usize = 1000;
/// Builds of a version that are looked at; there is one for each class of host.
const BUILDS: usize = 50;

/// A version that was used lately.
struct Used {
    source: Source,
    /// Last launch or build, milliseconds since the Unix epoch.
    at: i64,
    /// Launches of the last minute.
    launches: usize,
}

/// Has the versions that were used lately stocked.
pub(crate) async fn begin(shared: &Shared) {
    if !shared.pool.is_open() {
        return;
    }
    match lately_used(shared).await {
        // The last one is looked after first.
        Ok(used) => used.into_iter().rev().for_each(|version| {
            shared.pool.used_before(&version.source, version.launches);
        }),
        Err(error) => {
            tracing::error!(error = %chain(&error), "could not look up what the pool is to begin with");
        }
    }
}

/// The last used first.
async fn lately_used(shared: &Shared) -> Result<Vec<Used>, StoreError> {
    let now = shared.clock.now();
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let since = now.saturating_sub(millis(LOOK_BACK));
    let recent = now.saturating_sub(millis(RECENT));
    let launches = shared.store.launches_since(since, recent).await?;
    let launches: BTreeMap<(String, u32), (i64, usize)> = launches
        .into_iter()
        .map(|launched| {
            let version = (launched.image_name, launched.version);
            (version, (launched.last_at, launched.recent))
        })
        .collect();
    let mut used = Vec::new();
    let mut after = None;
    loop {
        let page = shared.store.images(None, after, PAGE).await?;
        for image in page.rows {
            let Some((source, built_at)) = newest_active(shared, &image).await? else {
                continue;
            };
            let version = (image.name, source.version);
            let (launched_at, launches) = launches.get(&version).copied().unwrap_or_default();
            let at = launched_at.max(built_at);
            if at >= since {
                used.push(Used {
                    source,
                    at,
                    launches,
                });
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    used.sort_by_key(|version| std::cmp::Reverse(version.at));
    used.truncate(VERSIONS);
    Ok(used)
}

/// What the launches of an image use on this host, and when it was built.
async fn newest_active(
    shared: &Shared,
    image: &Image,
) -> Result<Option<(Source, i64)>, StoreError> {
    let Some(version) = image
        .latest_active
        .filter(|_| image.state != ImageState::Deleting)
    else {
        return Ok(None);
    };
    let builds = shared
        .store
        .builds(image.id, version, None, BUILDS)
        .await?
        .rows;
    let usable = builds.into_iter().find(|build| {
        build.state == BuildState::Successful
            && !build.condemned
            && build.chipset_generation == shared.host.generation
    });
    Ok(usable.map(|build| {
        let built_at = build.updated_at.unwrap_or(build.created_at);
        let source = Source {
            image_name: image.name.clone(),
            version,
            build_id: build.id,
        };
        (source, built_at)
    }))
}
