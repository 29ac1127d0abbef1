//! Base images fetched from a registry: progress, refresh, bounds, and triggers that are refused. The
//! registry is a plain HTTP server of the test's own. Skipped where this machine cannot build containers.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{Ground, ground};
use colibri_image::{BuildFailure, BuilderSettings, FailureCode, ImageBuilder as _, Progress};
use sha2::{Digest as _, Sha256};

/// A registry that serves whatever was last pushed to it in memory.
struct Registry {
    address: String,
    blobs: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let blobs: Arc<Mutex<HashMap<String, Vec<u8>>>> = Arc::default();
        let served = Arc::clone(&blobs);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || answer(connection, &served));
            }
        });
        Self { address, blobs }
    }

    /// An image of one layer with one file of `size` zeros, under `name:1`.
    fn push(&self, name: &str, file: &str, size: usize, triggers: &[&str]) {
        let layer = tar(file, size);
        let layer_digest = digest(&layer);
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": { "OnBuild": triggers, "Cmd": ["x"] },
            "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        });
        let config = config.to_string().into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": config.len(), "digest": digest(&config),
            },
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
                "size": layer.len(), "digest": layer_digest,
            }],
        });
        let mut blobs = self.blobs.lock().unwrap();
        blobs.insert(
            format!("/v2/{name}/manifests/1"),
            manifest.to_string().into(),
        );
        for blob in [config, layer] {
            blobs.insert(format!("/v2/{name}/blobs/{}", digest(&blob)), blob);
        }
    }

    fn settings(&self, ground: &Ground) -> BuilderSettings {
        let mut settings = ground.settings();
        settings.registries_file = ground.directory.path().join("registries.conf");
        let text = format!(
            "[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
            self.address
        );
        std::fs::write(&settings.registries_file, text).unwrap();
        settings
    }
}

fn answer(connection: TcpStream, blobs: &Mutex<HashMap<String, Vec<u8>>>) {
    let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else {
        return;
    };
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let blobs = blobs.lock().unwrap();
    let found = blobs.get(path).cloned();
    let (status, body) = match (path, found) {
        (_, Some(body)) => ("200 OK", body),
        ("/v2/", None) => ("200 OK", b"{}".to_vec()),
        _ => ("404 Not Found", b"{}".to_vec()),
    };
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ndocker-content-digest: {}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        digest(&body),
        body.len()
    );
    let mut connection = connection;
    // A client that leaves is its own affair.
    let _ = connection.write_all(head.as_bytes());
    if method != "HEAD" {
        let _ = connection.write_all(&body);
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hash}")
}

/// A tar archive of one file of zeros.
fn tar(name: &str, size: usize) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    for (at, field) in [
        (100, "0000644"),
        (108, "0000000"),
        (116, "0000000"),
        (136, "00000000000"),
    ] {
        header[at..at + field.len()].copy_from_slice(field.as_bytes());
    }
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[156] = b'0';
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut archive = header.to_vec();
    archive.resize(512 + size.next_multiple_of(512) + 1024, 0);
    archive
}

async fn build(
    ground: &Ground,
    settings: BuilderSettings,
    dockerfile: &str,
    disk: u64,
) -> BuildFailure {
    let progress: Arc<dyn Progress> = ground.stages.clone();
    let mut request = ground.request();
    request.disk_bytes = disk;
    let builder = ground.builder(settings, &[("Dockerfile", dockerfile)]);
    builder.build(request, progress).await.unwrap_err()
}

/// Where a build ends that went well: the machine is left out.
const BUILT: &str = "INTERNAL_PLATFORM_ERROR: The platform could not start the build's machine.";

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_is_fetched_once_and_anew_when_its_copy_is_old() {
    let Some(ground) = ground() else { return };
    let registry = Registry::start();
    let mut settings = registry.settings(&ground);
    let from = format!("FROM {}/app:1", registry.address);
    registry.push("app", "first", 1000, &[]);
    let first = format!(
        "{from}
COPY --from={}/app:1 /first /copied
",
        registry.address
    );
    assert_eq!(
        build(&ground, settings.clone(), &first, 1 << 30)
            .await
            .to_string(),
        BUILT
    );
    assert!(
        ground.log.text().contains("fetching the base image"),
        "{}",
        ground.log.text()
    );

    registry.push("app", "second", 1000, &[]);
    let second = first.replace("/first", "/second");
    let failure = build(&ground, settings.clone(), &second, 1 << 30).await;
    assert_eq!(
        failure.code,
        FailureCode::ContainerBuildFailed,
        "the copy is used: {failure}\n{}",
        ground.log.text()
    );
    settings.base_image_age = Duration::ZERO;
    assert_eq!(
        build(&ground, settings.clone(), &second, 1 << 30)
            .await
            .to_string(),
        BUILT
    );

    // A registry that is gone costs nothing but a line in the log.
    registry.blobs.lock().unwrap().clear();
    assert_eq!(
        build(&ground, settings.clone(), &second, 1 << 30)
            .await
            .to_string(),
        BUILT
    );
    assert!(
        ground
            .log
            .text()
            .contains("so the copy that is here is used")
    );

    // Over their budget they go, the least recently used first.
    settings.base_images_bytes = 0;
    build(&ground, settings, &first, 1 << 30).await;
    ground.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_that_outgrows_the_disk_is_refused_and_removed() {
    let Some(ground) = ground() else { return };
    let registry = Registry::start();
    let mut settings = registry.settings(&ground);
    settings.container_disk_multiple = 1;
    registry.push("bomb", "big", 100 << 20, &[]);
    let text = format!("FROM {}/bomb:1\n", registry.address);
    let failure = build(&ground, settings, &text, 32 << 20).await;
    assert_eq!(failure.code, FailureCode::DiskStorageFull, "{failure}");
    ground.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_with_refused_triggers_does_not_stay() {
    let Some(ground) = ground() else { return };
    let registry = Registry::start();
    registry.push(
        "evil",
        "file",
        10,
        &["RUN --mount=type=cache,target=../x ls"],
    );
    let text = format!("FROM {}/evil:1\n", registry.address);
    let failure = build(&ground, registry.settings(&ground), &text, 1 << 30).await;
    assert!(failure.sentence.contains("of the base image"), "{failure}");
    ground.assert_nothing_left();
}
