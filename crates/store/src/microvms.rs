//! MicroVMs: admitting one, moving it from phase to phase, listing, forgetting.

use rusqlite::types::{ToSql, Value as SqlValue};
use rusqlite::{Connection, Row, params, params_from_iter};
use serde_json::Value;

use crate::database::Store;
use crate::error::StoreError;
use crate::images::bounds;
use crate::rows::{Columns, Listing, Position, key_of, page};
use crate::state::Phase;
use crate::tokens::{ClientToken, TokenRecord, find_token, remember_token};

/// A MicroVM.
#[derive(Clone, PartialEq)]
pub struct Microvm {
    /// `microvm-<uuid>`.
    pub id: String,
    /// Label of its endpoint's host name.
    pub label: String,
    /// Name of its image, also after that is deleted.
    pub image_name: String,
    /// Number of its image version.
    pub version: u32,
    /// Build whose base it maps; `None` once it has ended.
    pub build_id: Option<String>,
    /// Where it is.
    pub phase: Phase,
    /// Why it is there, for its owner.
    pub reason: Option<String>,
    /// What was fixed at its launch.
    pub settings: Value,
    /// Payload of the `/run` hook until it is delivered.
    pub run_payload: Option<String>,
    /// What makes it itself; kept over suspensions.
    pub identity: Option<Value>,
    /// Its network slot.
    pub slot: Option<u32>,
    /// What finds its VMM process.
    pub machine: Option<Value>,
    /// Memory that it may take, MiB.
    pub memory_mib: u32,
    /// Launch, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last suspended.
    pub suspended_at: Option<i64>,
    /// When it ended.
    pub terminated_at: Option<i64>,
}

impl std::fmt::Debug for Microvm {
    // The payload is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Microvm")
            .field("id", &self.id)
            .field("phase", &self.phase)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

/// A MicroVM to be launched.
#[derive(Clone)]
pub struct NewMicrovm {
    /// `microvm-<uuid>`.
    pub id: String,
    /// Label of its endpoint's host name.
    pub label: String,
    /// Name of its image.
    pub image_name: String,
    /// Number of its image version.
    pub version: u32,
    /// Build whose base it maps.
    pub build_id: String,
    /// What is fixed at its launch.
    pub settings: Value,
    /// Payload of the `/run` hook.
    pub run_payload: Option<String>,
    /// Memory that it may take, MiB.
    pub memory_mib: u32,
    /// Now, milliseconds since the Unix epoch.
    pub at: i64,
}

/// What the host and the account allow; checked in the transaction that admits a MicroVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// MicroVMs that have a process.
    pub running: u32,
    /// MicroVMs that have not ended, the suspended ones included.
    pub kept: u32,
    /// Memory of the MicroVMs that have a process, MiB.
    pub running_memory_mib: u64,
    /// Memory of all that have not ended, the suspended ones included, and of image builds, MiB.
    pub kept_memory_mib: u64,
}

/// Which MicroVMs are listed; what is left out does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MicrovmFilter {
    /// Name of their image.
    pub image_name: Option<String>,
    /// Number of their image version.
    pub version: Option<u32>,
}

/// What a list shows of a MicroVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicrovmSummary {
    /// Its id.
    pub id: String,
    /// Name of its image.
    pub image_name: String,
    /// Number of its image version.
    pub version: u32,
    /// Where it is.
    pub phase: Phase,
    /// When it was run, milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// Launches of an image version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// Name of the image.
    pub image_name: String,
    /// Number of the version.
    pub version: u32,
    /// The last one, milliseconds since the Unix epoch.
    pub last_at: i64,
    /// How many of them are recent.
    pub recent: usize,
}

/// What came of an attempt to admit a MicroVM.
#[derive(Debug)]
pub enum RunOutcome {
    /// It is admitted.
    Admitted(Box<Microvm>),
    /// The client token is known: this is what came of it.
    Replayed(TokenRecord),
    /// The build was condemned meanwhile.
    NoBuild,
    /// The account may not keep so many; what is in use.
    TooMany(Admission),
    /// The account may not keep so much memory; what is in use.
    OverQuota(Admission),
    /// The host cannot take it; what is in use.
    NoCapacity(Admission),
}

/// A change of a MicroVM, all in one transaction. What is left out stays.
#[derive(Debug, Clone, Default)]
pub struct Transition {
    changes: Vec<(&'static str, SqlValue)>,
}

impl Transition {
    /// To another phase.
    #[must_use]
    pub fn to(phase: Phase) -> Self {
        Self::default().set("phase", phase.as_str().to_owned())
    }

    /// Within the same phase.
    #[must_use]
    pub fn within() -> Self {
        Self::default()
    }

    /// With a reason, or without one.
    #[must_use]
    pub fn reason(self, reason: Option<String>) -> Self {
        self.set("reason", reason)
    }

    /// On this network slot, or on none.
    #[must_use]
    pub fn slot(self, slot: Option<u32>) -> Self {
        self.set("slot", slot)
    }

    /// With this VMM process, or with none.
    #[must_use]
    pub fn machine(self, machine: Option<&Value>) -> Self {
        self.set("machine", machine.map(Value::to_string))
    }

    /// With this identity.
    #[must_use]
    pub fn identity(self, identity: &Value) -> Self {
        self.set("identity", identity.to_string())
    }

    /// The run payload is delivered or void: forget it.
    #[must_use]
    pub fn payload_spent(self) -> Self {
        self.set("run_payload", SqlValue::Null)
    }

    /// Suspended at this time, milliseconds since the Unix epoch.
    #[must_use]
    pub fn suspended_at(self, at: Option<i64>) -> Self {
        self.set("suspended_at", at)
    }

    /// Ended at this time; the base is not used any more.
    #[must_use]
    pub fn ended_at(self, at: i64) -> Self {
        self.set("terminated_at", at)
            .set("build_id", SqlValue::Null)
    }

    /// The states that it must not leave: the end of a MicroVM is never undone by a write that was under way
    /// when it began.
    fn guard(&self) -> &'static str {
        let phase = self.changes.iter().find(|(column, _)| *column == "phase");
        let is_to = |wanted: Phase| {
            phase.is_some_and(|(_, value)| *value == SqlValue::Text(wanted.as_str().to_owned()))
        };
        if is_to(Phase::Terminated) {
            ""
        } else if is_to(Phase::Terminating) {
            " AND phase <> 'terminated'"
        } else {
            " AND phase NOT IN ('terminating', 'terminated')"
        }
    }

    fn set(mut self, column: &'static str, value: impl Into<SqlValue>) -> Self {
        self.changes.push((column, value.into()));
        self
    }
}

const COLUMNS: &str =
    "SELECT id, label, image_name, version, build_id, phase, reason, settings, run_payload,
    identity, slot, machine, memory_mib, created_at, suspended_at, terminated_at FROM microvms";

impl Store {
    /// Admits a MicroVM, in phase `Launching`, in one transaction with the check of the client token, of
    /// the build, and of what the host can take (`limit`).
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the id or label is taken.
    pub async fn admit_microvm<F>(
        &self,
        new: NewMicrovm,
        limit: Admission,
        token: Option<ClientToken>,
        response: F,
    ) -> Result<RunOutcome, StoreError>
    where
        F: FnOnce(&Microvm) -> Value + Send + 'static,
    {
        self.write(move |tx| {
            if let Some(token) = &token
                && let Some(record) = find_token(tx, &token.account, token.operation, &token.token)?
            {
                return Ok(RunOutcome::Replayed(record));
            }
            let in_use = in_use(tx)?;
            if in_use.kept >= limit.kept {
                return Ok(RunOutcome::TooMany(in_use));
            }
            if in_use.kept_memory_mib + u64::from(new.memory_mib) > limit.kept_memory_mib {
                return Ok(RunOutcome::OverQuota(in_use));
            }
            if in_use.running >= limit.running
                || in_use.running_memory_mib + u64::from(new.memory_mib) > limit.running_memory_mib
            {
                return Ok(RunOutcome::NoCapacity(in_use));
            }
            let inserted = tx.execute(
                "INSERT INTO microvms (id, label, image_name, version, build_id, phase, settings, run_payload,
                     memory_mib, created_at)
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
                  WHERE EXISTS (SELECT 1 FROM builds WHERE id = ?5 AND condemned = 0)",
                params![
                    new.id,
                    new.label,
                    new.image_name,
                    new.version,
                    new.build_id,
                    Phase::Launching.as_str(),
                    new.settings.to_string(),
                    new.run_payload,
                    new.memory_mib,
                    new.at
                ],
            )?;
            if inserted == 0 {
                return Ok(RunOutcome::NoBuild);
            }
            let microvm = find(tx, &new.id)?.ok_or_else(|| StoreError::missing(format!("MicroVM {}", new.id)))?;
            if let Some(token) = &token {
                remember_token(tx, token, &new.id, &response(&microvm))?;
            }
            Ok(RunOutcome::Admitted(Box::new(microvm)))
        })
        .await
    }

    /// What the MicroVMs that have a process use.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn microvms_in_use(&self) -> Result<Admission, StoreError> {
        self.read(in_use).await
    }

    /// A MicroVM by id.
    ///
    /// # Errors
    /// When the database fails or the row cannot be read.
    pub async fn microvm(&self, id: String) -> Result<Option<Microvm>, StoreError> {
        self.read(move |db| find(db, &id)).await
    }

    /// The image versions that were launched since `since`, and how often since `recent`, milliseconds since the
    /// Unix epoch.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn launches_since(
        &self,
        since: i64,
        recent: i64,
    ) -> Result<Vec<Launched>, StoreError> {
        self.read(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT image_name, version, max(created_at), count(*) FILTER (WHERE created_at >= ?2)
                   FROM microvms WHERE created_at >= ?1 GROUP BY image_name, version",
            )?;
            let rows = statement.query_map([since, recent], |row| {
                Ok(Launched {
                    image_name: row.get(0)?,
                    version: row.get(1)?,
                    last_at: row.get(2)?,
                    recent: row.get(3)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// A page of the MicroVMs that fit a filter, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn microvms(
        &self,
        filter: MicrovmFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Listing<MicrovmSummary>, StoreError> {
        self.read(move |db| {
            let (created_at, key) = bounds(after, i64::MIN);
            let mut statement = db.prepare_cached(
                "SELECT id, image_name, version, phase, created_at FROM microvms
                 WHERE (created_at, id) > (?1, ?2) AND (?4 IS NULL OR image_name = ?4)
                   AND (?5 IS NULL OR version = ?5) ORDER BY created_at, id LIMIT ?3",
            )?;
            let rows = &mut statement.query(params![
                created_at,
                key,
                limit.saturating_add(1),
                filter.image_name,
                filter.version
            ])?;
            page(rows, limit, "id", |row| {
                let columns = Columns::new(row, "microvms", key_of(row, "id"));
                Ok(MicrovmSummary {
                    id: columns.get("id")?,
                    image_name: columns.get("image_name")?,
                    version: columns.get("version")?,
                    phase: columns.state("phase", Phase::from_stored)?,
                    created_at: columns.get("created_at")?,
                })
            })
        })
        .await
    }

    /// Every MicroVM: recovery walks them once, at the start.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_microvms(&self) -> Result<Listing<Microvm>, StoreError> {
        self.read(|db| {
            let mut statement = db.prepare_cached(&format!("{COLUMNS} ORDER BY created_at, id"))?;
            page(&mut statement.query([])?, usize::MAX, "id", read_microvm)
        })
        .await
    }

    /// The network slots that these rows name, also of rows that cannot be read otherwise.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn slots_of(&self, ids: Vec<String>) -> Result<Vec<u32>, StoreError> {
        self.read(move |db| {
            let mut statement = db.prepare_cached("SELECT slot FROM microvms WHERE id = ?1")?;
            let mut slots = Vec::new();
            for id in ids {
                let mut rows = statement.query([id])?;
                while let Some(row) = rows.next()? {
                    // What is no number names no slot.
                    slots.extend(row.get::<_, u32>(0).ok());
                }
            }
            Ok(slots)
        })
        .await
    }

    /// Changes a MicroVM; on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such MicroVM, [`StoreError::Ending`] when it is ending or has
    /// ended and this is no part of that.
    pub async fn change_microvm(
        &self,
        id: String,
        transition: Transition,
    ) -> Result<(), StoreError> {
        if transition.changes.is_empty() {
            return Ok(());
        }
        self.write(move |tx| {
            let sets: Vec<String> = transition
                .changes
                .iter()
                .enumerate()
                .map(|(index, (column, _))| format!("{column} = ?{}", index + 2))
                .collect();
            let (sets, guard) = (sets.join(", "), transition.guard());
            let statement = format!("UPDATE microvms SET {sets} WHERE id = ?1{guard}");
            let values = std::iter::once(&id as &dyn ToSql).chain(
                transition
                    .changes
                    .iter()
                    .map(|(_, value)| value as &dyn ToSql),
            );
            if tx
                .prepare_cached(&statement)?
                .execute(params_from_iter(values))?
                == 0
            {
                let is_there = tx
                    .prepare_cached("SELECT 1 FROM microvms WHERE id = ?1")?
                    .exists([&id])?;
                return Err(if is_there {
                    StoreError::Ending { id }
                } else {
                    StoreError::missing(format!("MicroVM {id}"))
                });
            }
            Ok(())
        })
        .await
    }

    /// Removes the rows of MicroVMs that ended before `before`, milliseconds since the Unix epoch, with
    /// their client tokens; gives their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_microvms(&self, before: i64) -> Result<Vec<String>, StoreError> {
        self.write(move |tx| {
            let mut statement = tx.prepare_cached(
                "DELETE FROM microvms WHERE phase = 'terminated' AND terminated_at < ?1 RETURNING id",
            )?;
            let ids = statement.query_map([before], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
            for id in &ids {
                tx.execute("DELETE FROM client_tokens WHERE resource_id = ?1", [id])?;
            }
            Ok(ids)
        })
        .await
    }
}

fn in_use(db: &Connection) -> Result<Admission, StoreError> {
    Ok(db.query_row(
        "SELECT count(*) FILTER (WHERE phase <> 'suspended'),
                coalesce(sum(memory_mib) FILTER (WHERE phase <> 'suspended'), 0),
                coalesce(sum(memory_mib), 0)
                    + (SELECT coalesce(sum(CAST(json_extract(v.config, '$.resources[0].minimumMemoryInMiB') AS INTEGER)), 0)
                         FROM builds b JOIN image_versions v ON v.image_id = b.image_id AND v.version = b.version
                        WHERE b.state IN ('pending', 'in_progress') AND json_valid(v.config)),
                count(*)
           FROM microvms WHERE phase <> 'terminated'",
        [],
        |row| {
            Ok(Admission {
                running: row.get(0)?,
                running_memory_mib: row.get(1)?,
                kept_memory_mib: row.get(2)?,
                kept: row.get(3)?,
            })
        },
    )?)
}

fn find(db: &Connection, id: &str) -> Result<Option<Microvm>, StoreError> {
    let mut statement = db.prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(read_microvm).transpose()
}

fn read_microvm(row: &Row<'_>) -> Result<Microvm, StoreError> {
    let columns = Columns::new(row, "microvms", key_of(row, "id"));
    Ok(Microvm {
        id: columns.get("id")?,
        label: columns.get("label")?,
        image_name: columns.get("image_name")?,
        version: columns.get("version")?,
        build_id: columns.get("build_id")?,
        phase: columns.state("phase", Phase::from_stored)?,
        reason: columns.get("reason")?,
        settings: columns.json("settings")?,
        run_payload: columns.get("run_payload")?,
        identity: columns.optional_json("identity")?,
        slot: columns.get("slot")?,
        machine: columns.optional_json("machine")?,
        memory_mib: columns.get("memory_mib")?,
        created_at: columns.get("created_at")?,
        suspended_at: columns.get("suspended_at")?,
        terminated_at: columns.get("terminated_at")?,
    })
}
