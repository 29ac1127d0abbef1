//! Build and application logs: append-only streams, readable while they are written.
