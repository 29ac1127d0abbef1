//! The whole API without a machine: the real HTTP front, signatures, store, object store and logs, over
//! the simulated world of the testkit. Images are built and MicroVMs run in milliseconds, so that any
//! client can be tried against every operation. Nothing answers at an endpoint: there is no ingress.
//!
//! ```sh
//! cargo run -p colibri-server --example simulated -- DIR [roomy]
//! ```
//!
//! Prints `ready api=http://ADDRESS data=DIR` and serves until SIGTERM or SIGINT. `DIR` is used as
//! `colibri serve` uses its own: state is kept there, credentials are made there. Some limits are low,
//! so that a client can come upon them; `roomy` leaves them as they are by default, and GetMicrovm's rate
//! out of reach.
#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use colibri_control::{
    Clock, Control, EndpointForm, LogSink, MintFailure, Parts, SecurityGroup, Settings, Subnet, Vpc,
};
use colibri_iam::Principals;
use colibri_logs::{GroupName, Logs, StreamName};
use colibri_objects::Objects;
use colibri_server::{AccountRoles, Front, Listener, ObjectCallers, Rate, Rates};
use colibri_store::Store;
use colibri_testkit::World;
use colibri_wire::id::place::{Account, Place, Region};
use colibri_wire::id::port::{AllowedPorts, PortSpecification};
use colibri_wire::page::PageKey;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "000000000000";
/// Most images, low enough to be reached (`ServiceQuotaExceededException`).
const MAX_IMAGES: usize = 6;
/// Most running MicroVMs, low enough to be reached (`InsufficientCapacityException`).
const MAX_RUNNING: u32 = 4;
/// Calls of GetMicrovm a second where there is room: more than there can be, so that a load generator
/// measures the server and not the bound.
const BEYOND_REACH: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

/// Most network connectors, and versions of one (`NetworkConnectorLimitExceededException`).
const MAX_CONNECTORS: usize = 4;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    let directory = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: simulated DIR")?);
    std::fs::create_dir_all(&directory)?;
    let root = colibri_iam::root::open(&directory, REGION, ACCOUNT)?;
    let store = Store::open(directory.join("state.db")).await?;
    let principals = Principals::open(store.clone(), root).await?;
    let objects = Objects::open(
        &directory.join("objects"),
        Arc::new(ObjectCallers::new(Arc::clone(&principals), REGION)),
        colibri_objects::Settings::new(REGION),
    )?;
    let logs = Logs::open(&directory.join("logs"), colibri_logs::Settings::default())?;
    let roomy = std::env::args_os()
        .nth(2)
        .is_some_and(|word| word == "roomy");
    let roles = AccountRoles::new(Arc::clone(&principals));
    let control = control(&directory, store, logs.clone(), roles, roomy).await?;
    let front = Front::new(
        Arc::clone(&control),
        objects.service(),
        logs,
        Arc::clone(&principals),
        REGION.to_owned(),
    );
    let front = if roomy { unhurried(front)? } else { front };
    let listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    println!(
        "ready api=http://{} data={}",
        listener.address(),
        directory.display()
    );
    let shutdown = CancellationToken::new();
    tokio::join!(
        listener.serve(Arc::new(front), shutdown.clone()),
        shutdown.run_until_cancelled(principals.watch()),
        stop(shutdown.clone())
    );
    control.shutdown().await;
    Ok(())
}

fn unhurried(front: Front) -> Result<Front, Box<dyn Error>> {
    let mut rates = Rates::generous();
    let rate = Rate {
        per_second: BEYOND_REACH,
        burst: BEYOND_REACH,
    };
    rates.set("GetMicrovm", rate)?;
    Ok(front.with_rates(&rates))
}

async fn control(
    directory: &Path,
    store: Store,
    logs: Logs,
    roles: AccountRoles,
    roomy: bool,
) -> Result<Arc<Control>, Box<dyn Error>> {
    let world = World::new();
    let place = Place {
        region: Region::parse(REGION)?,
        account: Account::parse(ACCOUNT)?,
    };
    let endpoint = EndpointForm::UnderDomain("microvm.localhost:8443".to_owned());
    // The key of list tokens protects nothing here, where every state ends with its directory.
    let mut settings = Settings::new(place, directory.to_owned(), endpoint, PageKey::new([7; 32]));
    if !roomy {
        // Clients must bear what the live service does: pages that a filter has emptied.
        settings.aws_quirks = true;
        settings.max_images = MAX_IMAGES;
        settings.max_running = MAX_RUNNING;
    }
    settings.max_connectors = MAX_CONNECTORS;
    settings.max_connector_versions = MAX_CONNECTORS;
    settings.vpc = Vpc {
        subnets: ["subnet-1", "subnet-2"]
            .map(|id| (id.to_owned(), Subnet::default()))
            .into(),
        security_groups: [("sg-1".to_owned(), SecurityGroup::default())].into(),
    };
    let parts = Parts {
        settings,
        store,
        vmm: world.vmm(),
        network: world.network(),
        builder: world.builder(),
        logs: Arc::new(Output(logs)),
        tokens: Arc::new(Tokens(colibri_ingress::TokenMint::open(
            directory,
            SystemTime::now(),
        )?)),
        roles: Arc::new(roles),
        clock: Clock::system(),
    };
    Ok(Control::start(parts).await?)
}

async fn stop(shutdown: CancellationToken) {
    if let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    shutdown.cancel();
}

struct Output(Logs);

#[async_trait]
impl LogSink for Output {
    async fn append(&self, group: &str, stream: &str, events: Vec<(i64, String)>) {
        let (Ok(group), Ok(stream)) = (GroupName::parse(group), StreamName::parse(stream)) else {
            return;
        };
        if let Ok(mut writer) = self.0.writer(&group, &stream) {
            for (time, line) in events {
                writer.append(time, format!("{line}\n").as_bytes()).await;
            }
        }
    }
}

/// The ingress's own tokens, so that clients see what they will see.
struct Tokens(colibri_ingress::TokenMint);

impl colibri_control::TokenMint for Tokens {
    fn endpoint_token(
        &self,
        microvm_id: &str,
        ports: &AllowedPorts,
        minutes: u32,
    ) -> Result<String, MintFailure> {
        let now = SystemTime::now();
        self.0
            .mint(microvm_id, &allowed(ports), lifetime(minutes), now)
            .map_err(|error| failed(&error))
    }

    fn shell_token(&self, microvm_id: &str, minutes: u32) -> Result<String, MintFailure> {
        self.0
            .mint_shell(microvm_id, lifetime(minutes), SystemTime::now())
            .map_err(|error| failed(&error))
    }
}

fn allowed(ports: &AllowedPorts) -> colibri_ingress::AllowedPorts {
    let mut ranges = Vec::new();
    for specification in ports.specifications() {
        let (first, last) = match *specification {
            PortSpecification::AllPorts(_) => return colibri_ingress::AllowedPorts::All,
            PortSpecification::Port(port) => (port, port),
            PortSpecification::Range(range) => (range.start_port, range.end_port),
        };
        ranges.extend(colibri_ingress::PortRange::new(first, last));
    }
    colibri_ingress::AllowedPorts::ranges(ranges)
}

fn lifetime(minutes: u32) -> Duration {
    Duration::from_secs(u64::from(minutes) * 60)
}

fn failed(error: &impl ToString) -> MintFailure {
    MintFailure {
        reason: error.to_string(),
    }
}
