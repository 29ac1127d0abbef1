//! The file: opening, migrating, one writer, several readers.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use rusqlite_migration::{M, Migrations};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::error::StoreError;

/// Connections that read at the same time as the writer writes.
const READERS: usize = 4;

/// How long SQLite waits for another process that holds the file (a backup, say).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Prepared statements kept per connection.
const STATEMENTS: usize = 64;

/// Stands beside a store and learns of every write before and after it. A store has none unless it was
/// given one ([`Store::observed`]): it is how tests cut a daemon off between any two writes.
#[async_trait]
pub trait WriteObserver: Send + Sync {
    /// A write is about to begin; `write` is the Rust path of its closure. It is refused with this error.
    ///
    /// # Errors
    /// Whatever the write is to fail with.
    async fn before(&self, write: &'static str) -> Result<(), StoreError>;

    /// A write is on the disk; who asked for it learns of it when this returns.
    async fn after(&self, write: &'static str);
}

/// The state database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    observer: Option<Arc<dyn WriteObserver>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}

struct Shared {
    path: PathBuf,
    writer: Arc<Lane>,
    readers: Arc<Lane>,
}

/// Connections and the turns to use them. Waiting for a turn costs no thread.
struct Lane {
    connections: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl Lane {
    fn new(connections: Vec<Connection>) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(connections.len()));
        Arc::new(Self {
            connections: Mutex::new(connections),
            turns,
        })
    }

    /// Runs `work` on a connection of its own, on a thread that may block. Once begun it runs to
    /// its end, even when the caller has gone.
    async fn run<T, W>(self: &Arc<Self>, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Interrupted)?;
        let lane = Arc::clone(self);
        spawn_blocking(move || {
            let mut connection = lane.take().ok_or(StoreError::Interrupted)?;
            let outcome = work(&mut connection);
            lane.put_back(connection);
            drop(turn);
            outcome
        })
        .await
        .map_err(|_| StoreError::Interrupted)?
    }

    fn take(&self) -> Option<Connection> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn put_back(&self, connection: Connection) {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }
}

impl Store {
    /// Opens the database, making it (mode 0600) and bringing its schema up to date as needed.
    ///
    /// # Errors
    /// When the file cannot be opened or its schema is newer than this program.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        spawn_blocking(move || Self::open_now(path))
            .await
            .map_err(|_| StoreError::Interrupted)?
    }

    fn open_now(path: PathBuf) -> Result<Self, StoreError> {
        // SQLite gives its WAL and shared-memory files the mode of the database file.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::Open {
                path: path.clone(),
                source,
            })?;
        let mut writer = connect(&path).map_err(|error| damage(&path, error))?;
        check(&path, &writer)?;
        migrations().to_latest(&mut writer)?;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let reader = connect(&path)?;
            reader.pragma_update(None, "query_only", true)?;
            readers.push(reader);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                path,
                writer: Lane::new(vec![writer]),
                readers: Lane::new(readers),
            }),
            observer: None,
        })
    }

    /// This store, every write of which the observer sees.
    #[must_use]
    pub fn observed(self, observer: Arc<dyn WriteObserver>) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    pub(crate) async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let name = std::any::type_name::<W>();
        if let Some(observer) = &self.observer {
            observer.before(name).await?;
        }
        let written = self.shared.writer.run(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        });
        let value = written.await?;
        if let Some(observer) = &self.observer {
            observer.after(name).await;
        }
        Ok(value)
    }

    pub(crate) async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.shared
            .readers
            .run(move |connection| work(connection))
            .await
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A delivered run payload is a secret: what is deleted is overwritten.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// A damaged file is told before it is served: a page that is read later would fail one operation after the
/// other. Takes milliseconds for the few megabytes that the state has.
fn check(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let verdict = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match verdict.map_err(|error| damage(path, error.into()))? {
        verdict if verdict == "ok" => Ok(()),
        what => Err(StoreError::Damaged {
            path: path.to_owned(),
            what,
        }),
    }
}

/// An error that means a damaged file, as such.
fn damage(path: &Path, error: StoreError) -> StoreError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error {
        StoreError::Sqlite(cause)
            if matches!(
                cause.sqlite_error_code(),
                Some(DatabaseCorrupt | NotADatabase)
            ) =>
        {
            StoreError::Damaged {
                path: path.to_owned(),
                what: cause.to_string(),
            }
        }
        other => other,
    }
}

fn migrations() -> Migrations<'static> {
    Migrations::new(vec![
        M::up(include_str!("../migrations/0001_initial.sql")),
        M::up(include_str!("../migrations/0002_iam.sql")),
        M::up(include_str!("../migrations/0003_connectors.sql")),
    ])
}

/// True when a constraint of the schema refused an insertion.
pub(crate) fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

#[cfg(test)]
mod tests {
    use super::migrations;

    #[test]
    fn the_migrations_apply_in_order() {
        migrations().validate().unwrap();
    }
}
