//! What can go wrong with the store.

use std::path::PathBuf;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be made or opened.
    #[error("could not open the state database {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is no database, or a damaged one.
    #[error(
        "the state database {path} is damaged ({what}). Keep a copy of it and of the -wal file beside it; then put a \
         backup in its place, or what `sqlite3 {path} .recover | sqlite3 NEW` saves. With the file moved away the next \
         start begins empty, and removes every MicroVM"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says of it.
        what: String,
    },
    /// The schema could not be brought up to date; a database written by a newer version ends here.
    #[error(
        "could not bring the schema of the state database up to date; was it written by a newer version?"
    )]
    Migrate(#[from] rusqlite_migration::Error),
    /// SQLite refused.
    #[error("the state database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// A row holds what this version cannot read. Other rows are not affected.
    #[error(
        "the row {key} of table {table} cannot be read: {reason}; repair or delete it in state.db"
    )]
    CorruptRow {
        /// Table.
        table: &'static str,
        /// Primary key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The name, id or label is taken.
    #[error("{what} exists already")]
    Exists {
        /// What, in words: `image hello`.
        what: String,
    },
    /// There is no such thing (any more).
    #[error("{what} does not exist")]
    Missing {
        /// What, in words.
        what: String,
    },
    /// The MicroVM is ending or has ended: nothing but its end is written of it any more.
    #[error("MicroVM {id} is ending or has ended")]
    Ending {
        /// Its id.
        id: String,
    },
    /// Something else needs it.
    #[error("{what} is in use; {remedy}")]
    InUse {
        /// What, in words.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The thread that ran a transaction died.
    #[error("a transaction of the state database did not finish")]
    Interrupted,
}

impl StoreError {
    /// What SQLite says when the disk is full.
    #[must_use]
    pub fn storage_full() -> Self {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        Self::Sqlite(rusqlite::Error::SqliteFailure(code, None))
    }

    pub(crate) fn missing(what: impl Into<String>) -> Self {
        Self::Missing { what: what.into() }
    }
}
