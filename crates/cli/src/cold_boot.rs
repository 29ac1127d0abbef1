//! `colibri cold-boot`: what a launch is measured against. The same image on the same machine, without
//! its snapshot: kernel, agent, application, first answer.
//!
//! It uses nothing of a running daemon's: a directory and a network of its own, and the image's root
//! disk, which is never written.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use colibri_guest_protocol::client::GuestClient;
use colibri_guest_protocol::message::{ApplicationSpec, Identity};
use colibri_hypervisor::manifest::BaseManifest;
use colibri_hypervisor::qemu::Qemu;
use colibri_hypervisor::snapshot::ROOT_DISK;
use colibri_hypervisor::{BootSpec, Isolation, Machine, NetworkAttachment, Vmm};
use colibri_image::{APPLICATION_FILE, GuestAssets};
use colibri_network::{Egress, Network, NetworkSettings, Slot, SlotPool};
use rand::TryRngCore;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::driver;
use crate::settings::Settings;

/// Bound of the whole boot: software emulation on a loaded host is slow.
const BOUND: Duration = Duration::from_secs(180);
/// Between two attempts to reach the agent or the application.
const INTERVAL: Duration = Duration::from_millis(20);
/// Bound of one attempt to open a session with an agent that may not be there yet.
const SESSION_BOUND: Duration = Duration::from_secs(30);

/// Why an image was not booted.
#[derive(Debug, thiserror::Error)]
enum ColdBootError {
    /// There is no such image.
    #[error("there is no built version {version} of image {image} in {directory}")]
    NoImage {
        image: String,
        version: String,
        directory: PathBuf,
    },
    /// It did not answer.
    #[error("the application did not answer 200 within {} s; the console ends with: {console}", BOUND.as_secs())]
    Silent { console: String },
    /// The guests' files.
    #[error("the guests' files in {0} have no kernel for this image")]
    NoKernel(PathBuf),
}

/// Boots the image, prints the time to its first answer as JSON, and removes everything again.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) async fn cold_boot(
    settings: &Settings,
    image: &str,
    version: &str,
    port: u16,
    path: &str,
) -> Result<(), Box<dyn Error>> {
    let base = find_base(&settings.data_dir(), image, version)?;
    let manifest: BaseManifest =
        serde_json::from_slice(&std::fs::read(base.join("manifest.json"))?)?;
    let application: ApplicationSpec =
        serde_json::from_slice(&std::fs::read(base.join(APPLICATION_FILE))?)?;
    let guest_dir = settings.guest_dir();
    let assets = GuestAssets::load(&guest_dir)?;
    let files = assets
        .of_architecture(manifest.shape.architecture)
        .ok_or(ColdBootError::NoKernel(guest_dir))?;
    let (installation, _) = driver::choose(settings, &files.kernel).await?;
    let vmm = Qemu::new(installation);
    let scratch = tempfile::Builder::new()
        .prefix("cold-boot-")
        .tempdir_in(settings.data_dir())?;
    let mut network = NetworkSettings::new(scratch.path());
    network.spare_slots = 0;
    let pool = SlotPool::open(&network).await?;
    let slot = pool.acquire(Egress::Sealed).await?;
    let attached = slot.attach().await?;

    let started = Instant::now();
    let machine = vmm
        .boot(BootSpec {
            id: format!("cold-boot-{}", uuid::Uuid::new_v4()),
            directory: scratch.path().to_owned(),
            shape: manifest.shape,
            kernel: files.kernel.clone(),
            initramfs: files.initramfs.clone(),
            kernel_arguments: files.kernel_arguments.clone(),
            root_disk: base.join(ROOT_DISK),
            network: attached.map(|(tap, namespace)| NetworkAttachment { tap, namespace }),
            isolation: Isolation { uid: slot.uid() },
        })
        .await?;
    let answered = timeout(
        BOUND,
        first_answer(&machine, &slot, application, port, path),
    )
    .await;
    let took = started.elapsed();
    let console = machine.console().await.unwrap_or_default();
    machine.kill().await?;
    slot.release().await?;
    pool.close().await?;
    match answered {
        Ok(outcome) => outcome?,
        Err(_) => return Err(ColdBootError::Silent { console }.into()),
    }
    let millis = (took.as_secs_f64() * 10_000.0).round() / 10.0;
    println!("{}", json!({ "first_response_ms": millis }));
    Ok(())
}

/// The directory of a version's base: there is one build that succeeded.
fn find_base(data: &Path, image: &str, version: &str) -> Result<PathBuf, Box<dyn Error>> {
    let directory = data.join("images").join(image).join(version);
    let no_image = || ColdBootError::NoImage {
        image: image.to_owned(),
        version: version.to_owned(),
        directory: directory.clone(),
    };
    let builds = std::fs::read_dir(&directory).map_err(|_| no_image())?;
    let complete = builds
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("manifest.json").is_file());
    Ok(complete.ok_or_else(no_image)?)
}

async fn first_answer(
    machine: &Arc<dyn Machine>,
    slot: &Arc<dyn Slot>,
    application: ApplicationSpec,
    port: u16,
    path: &str,
) -> Result<(), Box<dyn Error>> {
    let guest = open_session(machine).await;
    guest.assume_identity(identity()?, SESSION_BOUND).await?;
    guest.start_application(application, SESSION_BOUND).await?;
    while !answers(slot, port, path).await {
        sleep(INTERVAL).await;
    }
    Ok(())
}

/// A session with the agent, as soon as it runs.
async fn open_session(machine: &Arc<dyn Machine>) -> GuestClient {
    loop {
        if let Ok(stream) = machine.control().await {
            // The application's output is of no interest here: the receiver takes and drops it.
            let (events, mut received) = mpsc::channel(64);
            tokio::spawn(async move { while received.recv().await.is_some() {} });
            if let Ok(guest) = GuestClient::connect(stream, events, SESSION_BOUND).await {
                return guest;
            }
        }
        sleep(INTERVAL).await;
    }
}

fn identity() -> Result<Identity, Box<dyn Error>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut entropy = [0_u8; 64];
    rand::rngs::OsRng.try_fill_bytes(&mut entropy)?;
    Ok(Identity {
        microvm_id: "cold-boot".to_owned(),
        hostname: "cold-boot".to_owned(),
        machine_id: uuid::Uuid::new_v4().simple().to_string(),
        boot_id: uuid::Uuid::new_v4().to_string(),
        entropy: base64::engine::general_purpose::STANDARD.encode(entropy),
        wall_clock_unix_nanos: u64::try_from(now.as_nanos())?,
        reset_connections: false,
    })
}

/// Whether the application answers 200.
async fn answers(slot: &Arc<dyn Slot>, port: u16, path: &str) -> bool {
    let ask = async {
        let mut stream = slot.connect(port).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut status = [0_u8; 12];
        stream.read_exact(&mut status).await?;
        Ok::<_, std::io::Error>(&status[9..] == b"200")
    };
    ask.await.unwrap_or(false)
}
