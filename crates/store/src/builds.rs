//! Builds, and the bases that they leave.

use rusqlite::{Connection, Row, Transaction, params};
use serde_json::Value;

use crate::database::Store;
use crate::error::StoreError;
use crate::images::{bounds, find_image, set_image_state};
use crate::rows::{Columns, Listing, Position, key_of, page};
use crate::state::{BuildState, ImageState, VersionState, VersionStatus};

/// A build of an image version.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// UUID.
    pub id: String,
    /// The image's internal number.
    pub image_id: i64,
    /// The image's name, also after the image is gone.
    pub image_name: String,
    /// Number of the version.
    pub version: u32,
    /// State.
    pub state: BuildState,
    /// Where it is, or was when it ended.
    pub stage: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Architecture as the API spells it.
    pub architecture: String,
    /// Chipset as the API spells it.
    pub chipset: String,
    /// Generation of the chipset.
    pub chipset_generation: String,
    /// Size of the memory snapshot, bytes.
    pub memory_bytes: Option<u64>,
    /// Size of the installed code, bytes.
    pub code_bytes: Option<u64>,
    /// Size of the disk snapshot, bytes.
    pub disk_bytes: Option<u64>,
    /// Machines of this build that may still run: what a crash leaves to be cleaned up.
    pub machines: Value,
    /// Its image or version is being deleted: no new MicroVM may use its base.
    pub condemned: bool,
    /// Creation, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Last update, likewise.
    pub updated_at: Option<i64>,
}

/// A build to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBuild {
    /// UUID.
    pub id: String,
    /// Architecture as the API spells it.
    pub architecture: String,
    /// Chipset as the API spells it.
    pub chipset: String,
    /// Generation of the chipset.
    pub chipset_generation: String,
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildOutcome {
    /// Its base is there.
    Succeeded {
        /// Size of the memory snapshot, bytes.
        memory_bytes: u64,
        /// Size of the installed code, bytes.
        code_bytes: u64,
        /// Size of the disk snapshot, bytes.
        disk_bytes: u64,
    },
    /// It failed, for this reason.
    Failed(String),
}

const BUILD_COLUMNS: &str = "SELECT id, image_id, image_name, version, state, stage, reason, architecture,
    chipset, chipset_generation, memory_bytes, code_bytes, disk_bytes, machines, condemned, created_at,
    updated_at FROM builds";

impl Store {
    /// A build of a version of a live image.
    ///
    /// # Errors
    /// When the database fails or the row cannot be read.
    pub async fn build(&self, id: String) -> Result<Option<Build>, StoreError> {
        self.read(move |db| find_build(db, &id)).await
    }

    /// A page of a version's builds, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn builds(
        &self,
        image_id: i64,
        version: u32,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Listing<Build>, StoreError> {
        self.read(move |db| {
            let (created_at, key) = bounds(after, i64::MAX);
            let mut statement = db.prepare_cached(&format!(
                "{BUILD_COLUMNS} WHERE image_id = ?1 AND version = ?2 AND (created_at, id) < (?3, ?4)
                 ORDER BY created_at DESC, id DESC LIMIT ?5"
            ))?;
            page(
                &mut statement.query(params![image_id, version, created_at, key, limit + 1])?,
                limit,
                "id",
                read_build,
            )
        })
        .await
    }

    /// Every build that has not ended, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unfinished_builds(&self) -> Result<Listing<Build>, StoreError> {
        self.builds_where("state IN ('pending', 'in_progress') AND condemned = 0")
            .await
    }

    /// Every build whose base may be removed: condemned, and used by no MicroVM.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn removable_builds(&self) -> Result<Listing<Build>, StoreError> {
        self.builds_where(
            "condemned = 1 AND NOT EXISTS (SELECT 1 FROM microvms m WHERE m.build_id = builds.id)",
        )
        .await
    }

    /// Every build, for checks of what a store holds: nothing of the daemon asks for them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_builds(&self) -> Result<Listing<Build>, StoreError> {
        self.builds_where("1").await
    }

    async fn builds_where(&self, condition: &'static str) -> Result<Listing<Build>, StoreError> {
        self.read(move |db| {
            let mut statement = db.prepare_cached(&format!(
                "{BUILD_COLUMNS} WHERE {condition} ORDER BY created_at, id"
            ))?;
            page(&mut statement.query([])?, usize::MAX, "id", read_build)
        })
        .await
    }

    /// A build starts, or starts again after an interruption: its version is in progress, and nothing of
    /// an earlier attempt counts.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it was deleted meanwhile.
    pub async fn begin_build(&self, id: String, at: i64) -> Result<(), StoreError> {
        self.write(move |tx| {
            let build = existing(tx, &id)?;
            tx.execute(
                "UPDATE builds SET state = ?2, stage = NULL, reason = NULL, code_bytes = NULL, machines = '[]',
                    updated_at = ?3 WHERE id = ?1",
                params![id, BuildState::InProgress.as_str(), at],
            )?;
            tx.execute(
                "UPDATE image_versions SET state = ?3, updated_at = ?4 WHERE image_id = ?1 AND version = ?2",
                params![build.image_id, build.version, VersionState::InProgress.as_str(), at],
            )?;
            Ok(())
        })
        .await
    }

    /// A build entered a stage.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_build_stage(
        &self,
        id: String,
        stage: String,
        at: i64,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            tx.execute(
                "UPDATE builds SET stage = ?2, updated_at = ?3 WHERE id = ?1",
                params![id, stage, at],
            )?;
            Ok(())
        })
        .await
    }

    /// The size of a build's installed code is known, bytes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_build_code_size(&self, id: String, bytes: u64) -> Result<(), StoreError> {
        self.write(move |tx| {
            tx.execute(
                "UPDATE builds SET code_bytes = ?2 WHERE id = ?1",
                params![id, bytes],
            )?;
            Ok(())
        })
        .await
    }

    /// Changes the list of a build's machines that may still run.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such build.
    pub async fn change_build_machines<F>(&self, id: String, change: F) -> Result<(), StoreError>
    where
        F: FnOnce(Value) -> Value + Send + 'static,
    {
        self.write(move |tx| {
            let build = existing(tx, &id)?;
            let machines = change(build.machines).to_string();
            tx.execute(
                "UPDATE builds SET machines = ?2 WHERE id = ?1",
                params![id, machines],
            )?;
            Ok(())
        })
        .await
    }

    /// A build ended: its version and its image follow in the same transaction, as soon as no other build
    /// of the version is left to wait for.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it was deleted meanwhile.
    pub async fn finish_build(
        &self,
        id: String,
        outcome: BuildOutcome,
        at: i64,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            let build = existing(tx, &id)?;
            record_outcome(tx, &id, &outcome, at)?;
            settle_version(tx, &build, at)
        })
        .await
    }

    /// Removes the row of a build whose base has been removed.
    ///
    /// # Errors
    /// When a MicroVM still uses the base.
    pub async fn forget_build(&self, id: String) -> Result<(), StoreError> {
        self.write(move |tx| {
            tx.execute("DELETE FROM builds WHERE id = ?1 AND condemned = 1", [id])?;
            Ok(())
        })
        .await
    }
}

fn record_outcome(
    tx: &Transaction<'_>,
    id: &str,
    outcome: &BuildOutcome,
    at: i64,
) -> Result<(), StoreError> {
    match outcome {
        BuildOutcome::Succeeded { memory_bytes, code_bytes, disk_bytes } => tx.execute(
            "UPDATE builds SET state = ?2, memory_bytes = ?3, code_bytes = ?4, disk_bytes = ?5, machines = '[]',
                updated_at = ?6 WHERE id = ?1",
            params![id, BuildState::Successful.as_str(), memory_bytes, code_bytes, disk_bytes, at],
        )?,
        BuildOutcome::Failed(reason) => tx.execute(
            "UPDATE builds SET state = ?2, reason = ?3, machines = '[]', updated_at = ?4 WHERE id = ?1",
            params![id, BuildState::Failed.as_str(), reason, at],
        )?,
    };
    Ok(())
}

/// A version succeeds when all of its builds have, and fails when all have ended and one has failed.
fn settle_version(tx: &Transaction<'_>, build: &Build, at: i64) -> Result<(), StoreError> {
    let (open, failed): (u32, u32) = tx.query_row(
        "SELECT coalesce(sum(state IN ('pending', 'in_progress')), 0), coalesce(sum(state = 'failed'), 0)
           FROM builds WHERE image_id = ?1 AND version = ?2",
        params![build.image_id, build.version],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if open > 0 {
        return Ok(());
    }
    let (state, status) = if failed == 0 {
        (VersionState::Successful, VersionStatus::Active)
    } else {
        (VersionState::Failed, VersionStatus::Inactive)
    };
    tx.execute(
        "UPDATE image_versions SET state = ?3, status = ?4, updated_at = ?5 WHERE image_id = ?1 AND version = ?2",
        params![build.image_id, build.version, state.as_str(), status.as_str(), at],
    )?;
    let Some(image) = find_image(tx, &build.image_name)?.filter(|image| image.id == build.image_id)
    else {
        return Ok(());
    };
    let next = match (image.state, failed == 0) {
        (ImageState::Creating, true) => ImageState::Created,
        (ImageState::Creating, false) => ImageState::CreateFailed,
        (ImageState::Updating, true) => ImageState::Updated,
        (ImageState::Updating, false) => ImageState::UpdateFailed,
        (other, _) => other,
    };
    set_image_state(tx, &image.name, next, at)
}

pub(crate) fn insert_build(
    tx: &Transaction<'_>,
    image_id: i64,
    image_name: &str,
    version: u32,
    build: &NewBuild,
    at: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO builds (id, image_id, image_name, version, state, architecture, chipset,
             chipset_generation, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            build.id,
            image_id,
            image_name,
            version,
            BuildState::Pending.as_str(),
            build.architecture,
            build.chipset,
            build.chipset_generation,
            at
        ],
    )?;
    Ok(())
}

fn existing(db: &Connection, id: &str) -> Result<Build, StoreError> {
    find_build(db, id)?.ok_or_else(|| StoreError::missing(format!("build {id}")))
}

fn find_build(db: &Connection, id: &str) -> Result<Option<Build>, StoreError> {
    let mut statement = db.prepare_cached(&format!("{BUILD_COLUMNS} WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(read_build).transpose()
}

fn read_build(row: &Row<'_>) -> Result<Build, StoreError> {
    let columns = Columns::new(row, "builds", key_of(row, "id"));
    Ok(Build {
        id: columns.get("id")?,
        image_id: columns.get("image_id")?,
        image_name: columns.get("image_name")?,
        version: columns.get("version")?,
        state: columns.state("state", BuildState::from_stored)?,
        stage: columns.get("stage")?,
        reason: columns.get("reason")?,
        architecture: columns.get("architecture")?,
        chipset: columns.get("chipset")?,
        chipset_generation: columns.get("chipset_generation")?,
        memory_bytes: columns.get("memory_bytes")?,
        code_bytes: columns.get("code_bytes")?,
        disk_bytes: columns.get("disk_bytes")?,
        machines: columns.json("machines")?,
        condemned: columns.get("condemned")?,
        created_at: columns.get("created_at")?,
        updated_at: columns.get("updated_at")?,
    })
}
