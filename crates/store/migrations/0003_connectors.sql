-- Network connectors. A version is immutable once it is there; `latest` is the newest one that is, or was,
-- good. Configurations are JSON text whose shape belongs to the control plane.

CREATE TABLE connectors (
    id                 TEXT    PRIMARY KEY,
    name               TEXT    NOT NULL UNIQUE,
    state              TEXT    NOT NULL,
    latest             INTEGER NOT NULL,
    next_version       INTEGER NOT NULL,
    update_state       TEXT,            -- of the last update; NULL before the first one
    update_reason      TEXT,
    update_reason_code TEXT,
    tags               TEXT    NOT NULL,
    created_at         INTEGER NOT NULL,
    modified_at        INTEGER NOT NULL
) STRICT;

CREATE TABLE connector_versions (
    connector_id TEXT    NOT NULL REFERENCES connectors (id) ON DELETE CASCADE,
    version      INTEGER NOT NULL,
    state        TEXT    NOT NULL,
    reason       TEXT,
    reason_code  TEXT,
    config       TEXT    NOT NULL,
    role         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    modified_at  INTEGER NOT NULL,
    PRIMARY KEY (connector_id, version)
) STRICT;

-- Deletes are repeatable: what was deleted answers so for a while.
CREATE TABLE deleted_connectors (
    id         TEXT    NOT NULL,
    version    INTEGER NOT NULL, -- 0: the whole connector
    name       TEXT    NOT NULL,
    deleted_at INTEGER NOT NULL,
    PRIMARY KEY (id, version)
) STRICT;
CREATE INDEX deleted_connectors_by_name ON deleted_connectors (name);
