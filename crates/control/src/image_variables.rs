//! Variables of an image that Colibri itself understands (docs/extensions.md), as a base has them: those of
//! the Dockerfile and of the version were merged when it was built.

use std::io;
use std::path::Path;

use colibri_guest_protocol::message::ApplicationSpec;
use colibri_image::APPLICATION_FILE;

/// A variable of the image that a base was built from.
pub(crate) async fn of_base(base: &Path, name: &str) -> io::Result<Option<String>> {
    let text = tokio::fs::read(base.join(APPLICATION_FILE)).await?;
    let application: ApplicationSpec = serde_json::from_slice(&text)?;
    let entries = application.environment.iter().rev();
    let mut pairs = entries.filter_map(|entry| entry.split_once('='));
    let found = pairs.find(|(key, _)| *key == name);
    Ok(found.map(|(_, value)| value.to_owned()))
}
