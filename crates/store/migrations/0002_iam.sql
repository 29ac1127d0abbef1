-- Who may do what. SigV4 is computed with the secret itself, so keys are kept as they are; this file
-- is its owner's alone (0600, in a directory of 0700). What a policy or a name may be is the business
-- of the crate `iam`.

-- Counts the changes below, so that whoever holds them in memory learns of one made by another process.
CREATE TABLE iam_revision (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO iam_revision (id, revision) VALUES (1, 0);

CREATE TABLE iam_users (
    name       TEXT    PRIMARY KEY,
    unique_id  TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE iam_roles (
    name                TEXT    PRIMARY KEY,
    unique_id           TEXT    NOT NULL UNIQUE,
    trust               TEXT    NOT NULL,
    max_session_seconds INTEGER NOT NULL,
    created_at          INTEGER NOT NULL
) STRICT;

CREATE TABLE iam_policies (
    name       TEXT    PRIMARY KEY,
    document   TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- What belongs to a user or to a role names one of the two.
CREATE TABLE iam_attachments (
    user_name   TEXT REFERENCES iam_users (name) ON DELETE CASCADE,
    role_name   TEXT REFERENCES iam_roles (name) ON DELETE CASCADE,
    policy_name TEXT NOT NULL REFERENCES iam_policies (name) ON DELETE RESTRICT,
    CHECK ((user_name IS NULL) <> (role_name IS NULL)),
    UNIQUE (user_name, policy_name),
    UNIQUE (role_name, policy_name)
) STRICT;

CREATE TABLE iam_inline_policies (
    user_name TEXT REFERENCES iam_users (name) ON DELETE CASCADE,
    role_name TEXT REFERENCES iam_roles (name) ON DELETE CASCADE,
    name      TEXT NOT NULL,
    document  TEXT NOT NULL,
    CHECK ((user_name IS NULL) <> (role_name IS NULL)),
    UNIQUE (user_name, name),
    UNIQUE (role_name, name)
) STRICT;

CREATE TABLE iam_access_keys (
    id         TEXT    PRIMARY KEY,
    user_name  TEXT    NOT NULL REFERENCES iam_users (name) ON DELETE CASCADE,
    secret     TEXT    NOT NULL,
    active     INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Temporary keys: of a role, of a user, or, naming neither, of the root.
CREATE TABLE iam_sessions (
    access_key_id TEXT    PRIMARY KEY,
    secret        TEXT    NOT NULL,
    token         TEXT    NOT NULL,
    user_name     TEXT    REFERENCES iam_users (name) ON DELETE CASCADE,
    role_name     TEXT    REFERENCES iam_roles (name) ON DELETE CASCADE,
    session_name  TEXT,
    policy        TEXT,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX iam_sessions_by_end ON iam_sessions (expires_at);
