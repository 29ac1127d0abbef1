-- Times are milliseconds since the Unix epoch. Documents (tags, config, settings, machine records)
-- are JSON text whose shape belongs to the control plane.

CREATE TABLE images (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT    NOT NULL UNIQUE,
    state        TEXT    NOT NULL,
    next_version INTEGER NOT NULL,
    tags         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER
) STRICT;

CREATE TABLE image_versions (
    image_id   INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    version    INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    reason     TEXT,
    config     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER,
    PRIMARY KEY (image_id, version)
) STRICT;

-- A build outlives its image while a MicroVM still uses its base: `condemned` forbids new users, and
-- the foreign key of `microvms.build_id` forbids the removal of the row while there is one.
CREATE TABLE builds (
    id                 TEXT    PRIMARY KEY,
    image_id           INTEGER NOT NULL,
    image_name         TEXT    NOT NULL,
    version            INTEGER NOT NULL,
    state              TEXT    NOT NULL,
    stage              TEXT,
    reason             TEXT,
    architecture       TEXT    NOT NULL,
    chipset            TEXT    NOT NULL,
    chipset_generation TEXT    NOT NULL,
    memory_bytes       INTEGER,
    code_bytes         INTEGER,
    disk_bytes         INTEGER,
    machines           TEXT    NOT NULL DEFAULT '[]',
    condemned          INTEGER NOT NULL DEFAULT 0,
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER
) STRICT;
CREATE INDEX builds_of_version ON builds (image_id, version);

CREATE TABLE microvms (
    id            TEXT    PRIMARY KEY,
    label         TEXT    NOT NULL UNIQUE,
    image_name    TEXT    NOT NULL,
    version       INTEGER NOT NULL,
    build_id      TEXT    REFERENCES builds (id) ON DELETE RESTRICT,
    phase         TEXT    NOT NULL,
    reason        TEXT,
    settings      TEXT    NOT NULL,
    run_payload   TEXT,
    identity      TEXT,
    slot          INTEGER,
    machine       TEXT,
    memory_mib    INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    suspended_at  INTEGER,
    terminated_at INTEGER
) STRICT;
CREATE INDEX microvms_by_age ON microvms (created_at, id);
CREATE INDEX microvms_of_build ON microvms (build_id);

CREATE TABLE client_tokens (
    account      TEXT    NOT NULL,
    operation    TEXT    NOT NULL,
    token        TEXT    NOT NULL,
    request_hash TEXT    NOT NULL,
    resource_id  TEXT    NOT NULL,
    response     TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (account, operation, token)
) STRICT;
CREATE INDEX client_tokens_by_resource ON client_tokens (resource_id);

-- Deletes are repeatable: a name that was deleted answers so for a while.
CREATE TABLE deleted_images (
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL, -- 0: the whole image
    deleted_at INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;
