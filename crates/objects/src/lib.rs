//! Artifacts: the embedded S3-compatible endpoint.
