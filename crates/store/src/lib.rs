//! Durable state: SQLite with migrations.
