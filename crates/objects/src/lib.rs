//! Artifacts: the embedded S3-compatible endpoint, and the objects behind it.
//!
//! The protocol (routing, XML, SigV4, aws-chunked) is the `s3s` library's. This crate adds what the
//! library leaves to its user: where objects live and how they become durable (`store`), that what
//! was declared of an upload is true (`receive`), and that a request is refused with the error that
//! S3 gives (`admission`, `access`).
//!
//! It knows nothing of images or MicroVMs. A builder takes an artifact with
//! [`Objects::copy_to_file`].

#![forbid(unsafe_code)]

mod access;
mod admission;
mod api;
mod callers;
mod checksum;
mod copy;
mod declared_body;
mod errors;
mod etag;
mod host;
mod listing;
mod receive;
mod seen;
mod service;
mod settings;
mod store;

use std::io;
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;

pub use admission::is_s3_request;
pub use callers::{Callers, ObjectCall, Peer, SessionFault};
pub use copy::CopyError;
pub use seen::Seen;
pub use service::{ObjectsService, ResponseBody};
pub use settings::Settings;

use api::Api;
use store::Store;

/// All objects of a data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    api: Api,
    service: ObjectsService,
}

impl Objects {
    /// Opens the objects under `directory` (made when missing): reads every record, drops what a
    /// crash left half done, and ends multipart uploads that nobody finished. Waits for the disk;
    /// call it before serving, and once per directory at a time.
    ///
    /// # Errors
    /// When the directory cannot be made, read or swept.
    pub fn open(
        directory: &Path,
        callers: Arc<dyn Callers>,
        settings: Settings,
    ) -> io::Result<Self> {
        let store = Store::open(directory)?;
        store.abort_uploads_before(OffsetDateTime::now_utc() - settings.abandoned_after);
        let api = Api {
            store: Arc::new(store),
            settings: Arc::new(settings),
        };
        Ok(Self {
            service: ObjectsService::new(api.clone(), callers),
            api,
        })
    }

    /// The endpoint to call with HTTP requests.
    #[must_use]
    pub fn service(&self) -> ObjectsService {
        self.service.clone()
    }

    /// Copies an object to a new file at `path`, for a build. At most `limit` bytes. On failure no
    /// file is left.
    ///
    /// # Errors
    /// When there is no such bucket or key, the object is larger, or a file could not be read or
    /// written (also when `path` exists).
    pub async fn copy_to_file(
        &self,
        bucket: &str,
        key: &str,
        path: &Path,
        limit: u64,
    ) -> Result<u64, CopyError> {
        copy::copy_to_file(&self.api.store, bucket, key, path, limit).await
    }
}
