//! `colibri serve`: opens everything, joins it, serves until told to stop.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use colibri_control::{Clock, Control, EndpointForm, Parts};
use colibri_hypervisor::{Architecture, cgroup::CpuBound, qemu::Qemu};
use colibri_iam::Principals;
use colibri_image::{BuilderSettings, ContainerImageBuilder, GuestAssets};
use colibri_ingress::{Certificates, Domain, Ingress, ListenAddress, TokenMint};
use colibri_logs::Logs;
use colibri_network::{NetworkSettings, SlotPool};
use colibri_objects::Objects;
use colibri_server::{AccountRoles, Front, LifecycleAudit, Listener, ObjectCallers};
use colibri_store::Store;
use colibri_wire::id::place::{Account, Place, Region};
use colibri_wire::page::PageKey;
use rand::TryRngCore;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::base_versions;
use crate::driver::{self, DriverError};
use crate::glue::{ControlGateway, IngressTokens, ObjectArtifacts, OutputLogs};
use crate::lives;
use crate::settings::{Arm64Requests, Endpoints, Settings, SettingsError, parsed};

/// Region of everything: clients need one, and one host is one region.
const REGION: &str = "us-east-1";
/// Account of everything.
pub(crate) const ACCOUNT: &str = "000000000000";
/// How long the lock of the data directory is waited for. A daemon that was killed while it started a
/// process leaves a copy of itself that holds the lock, and the listening sockets, until that copy becomes
/// the other program: it enters control groups first, which takes the kernel a moment, or several.
const LOCK_BOUND: Duration = Duration::from_secs(10);
/// How often it is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
/// How often log events beyond their retention are dropped.
const LOG_RETENTION_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// A daemon cannot start.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    /// Another daemon serves this directory.
    #[error("another colibri serves {0} already; stop it, or choose another --data-dir")]
    Taken(PathBuf),
    /// A file of the data directory.
    #[error("could not {attempted} {path}")]
    Io {
        attempted: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ServeError {
    fn io(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            attempted,
            path,
            source,
        }
    }
}

/// Serves until SIGTERM or SIGINT. MicroVMs go on running.
pub(crate) async fn serve(settings: Settings) -> Result<(), Box<dyn Error>> {
    settings.capacity.check()?;
    let data = settings.data_dir();
    let _lock = take_directory(&data).await?;
    raise_descriptor_limit();
    let listen: ListenAddress = match &settings.ingress.listen {
        Some(text) => parsed("ingress.listen", text)?,
        None => ListenAddress::default(),
    };
    // Bound first: a taken address is told before anything is recovered or probed.
    let api = Listener::bind(settings.api.listen).await?;
    let domain: Domain = match &settings.ingress.domain {
        Some(text) => parsed("ingress.domain", text)?,
        None => Domain::default(),
    };
    let now = SystemTime::now();
    let certificates = Arc::new(Certificates::open(&data, &domain, &[], now)?);
    let tokens = Arc::new(TokenMint::open(&data, now)?);
    let root = colibri_iam::root::open(&data, REGION, ACCOUNT)?;
    let store = Store::open(data.join("state.db")).await?;
    if let Some(file) = &settings.iam_file {
        declare(&store, file).await?;
    }
    let principals = Principals::open(store.clone(), root).await?;
    let objects = open_objects(data.join("objects"), Arc::clone(&principals)).await?;
    let logs = open_logs(data.join("logs")).await?;

    let (vmm, guest) = hypervisor(&settings).await?;
    let guest = base_versions::guests(&settings.images.base_versions, guest)?;
    let network = Arc::new(SlotPool::open(&network_settings(&settings, &data)?).await?);
    let builder = ContainerImageBuilder::new(
        builder_settings(&settings, &data),
        Arc::clone(&vmm) as _,
        Arc::clone(&network) as _,
        Arc::new(ObjectArtifacts(objects.clone())),
        guest,
        Arc::new(logs.clone()),
    );
    let mut choices = colibri_control::Settings::new(
        Place {
            region: Region::parse(REGION)?,
            account: Account::parse(ACCOUNT)?,
        },
        data.clone(),
        endpoint_form(&settings, &domain, listen),
        PageKey::new(page_key(&data.join("page-key"))?),
    );
    choices.arm64_requests = match settings.images.arm64_requests {
        Arm64Requests::Refuse => colibri_control::Arm64Requests::Refuse,
        Arm64Requests::Native => colibri_control::Arm64Requests::Native,
    };
    if let Some(builds) = settings.images.concurrent_builds {
        choices.concurrent_builds = builds.max(1);
    }
    if let Some(seconds) = settings.images.build_seconds {
        choices.build_bound = Duration::from_secs(seconds);
    }
    let trail = settings.audit.open(&data)?;
    if let Some(trail) = &trail {
        choices.observer = Arc::new(LifecycleAudit::new(trail.clone(), REGION, ACCOUNT));
    }
    choices.aws_quirks = settings.aws_quirks;
    choices.base_versions = base_versions::versions(&settings.images.base_versions)?;
    settings.quotas.apply(&mut choices);
    let rates = settings.quotas.rates()?;
    let sizes = settings.quotas.endpoints()?;
    connect_vpc(&settings, &mut choices)?;
    keep_for_speed(&settings, &mut choices);
    lives::choose(&settings.microvms, &mut choices)?;
    set_capacity(&settings, &mut choices);
    let mut roles = AccountRoles::new(Arc::clone(&principals));
    if let Some(trail) = &trail {
        roles = roles.with_audit(trail.clone(), REGION);
    }
    let control = Control::start(Parts {
        settings: choices,
        store,
        vmm,
        network: Arc::clone(&network) as _,
        builder: Arc::new(builder),
        logs: Arc::new(OutputLogs(logs.clone())),
        tokens: Arc::new(IngressTokens(Arc::clone(&tokens))),
        roles: Arc::new(roles),
        clock: Clock::system(),
    })
    .await?;

    let gateway = Arc::new(ControlGateway {
        control: Arc::clone(&control),
        sizes,
    });
    let mut limits = colibri_ingress::Limits::default();
    if let Some(most) = settings.ingress.connections_per_client {
        limits.max_connections_per_peer = most.get();
    }
    let ingress_settings = colibri_ingress::Settings {
        listen,
        domain,
        limits,
    };
    let ingress = Ingress::bind(ingress_settings, certificates, tokens, gateway).await?;
    let front = Front::new(
        Arc::clone(&control),
        objects.service(),
        logs.clone(),
        Arc::clone(&principals),
        REGION.to_owned(),
    );
    let mut front = front.with_rates(&rates);
    if let Some(trail) = &trail {
        front = front.with_audit(trail.clone(), ACCOUNT, settings.audit.calls());
    }
    let front = Arc::new(front);

    announce(&api, &ingress, &data);
    let shutdown = CancellationToken::new();
    let serving = async {
        tokio::join!(
            api.serve(front, shutdown.clone()),
            ingress.serve(shutdown.clone()),
            drop_old_logs(logs, shutdown.clone()),
            shutdown.run_until_cancelled(principals.watch())
        );
    };
    let stopping = async {
        wait_for_stop().await;
        shutdown.cancel();
    };
    tokio::join!(serving, stopping);
    control.shutdown().await;
    if let Err(error) = network.close().await {
        warn!(%error, "the network's spare slots were not removed");
    }
    if let Some(trail) = trail {
        trail.flush().await;
    }
    info!("stopped; MicroVMs go on running");
    Ok(())
}

/// Makes users, roles and policies as the file of the settings declares them.
async fn declare(store: &Store, file: &Path) -> Result<(), Box<dyn Error>> {
    let declaration = crate::iam::declaration(file)?;
    let plan = declaration.plan(&store.iam().await?, false, SystemTime::now())?;
    for line in &plan.lines {
        info!(line, "declared in the iam_file");
    }
    if !plan.changes.is_empty() {
        store.change_iam(plan.changes).await?;
    }
    Ok(())
}

/// The one line on standard output, for people and for whoever started us.
#[expect(
    clippy::print_stdout,
    reason = "the line that says that the daemon can serve"
)]
fn announce(api: &Listener, ingress: &Ingress, data: &Path) {
    let ingress = ingress
        .addresses()
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    println!(
        "ready api=http://{} ingress=https://{ingress} data={}",
        api.address(),
        data.display()
    );
}

/// Makes the directory ours: nobody else reads it, and no second daemon serves it.
async fn take_directory(data: &Path) -> Result<File, ServeError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data);
    made.map_err(ServeError::io("make the data directory", data))?;
    // One that was there may be open to others, and what is below relies on its being closed: bases can be
    // read by any user who reaches them.
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))
        .map_err(ServeError::io("close to other users", data))?;
    let path = data.join("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let lock = lock.map_err(ServeError::io("open", &path))?;
    let waiting = tokio::time::timeout(LOCK_BOUND, async {
        while !locked(&lock).map_err(ServeError::io("lock", &path))? {
            tokio::time::sleep(LOCK_INTERVAL).await;
        }
        Ok(())
    });
    match waiting.await {
        Ok(outcome) => outcome.map(|()| lock),
        Err(_) => Err(ServeError::Taken(data.to_owned())),
    }
}

/// False when somebody else has it.
fn locked(lock: &File) -> io::Result<bool> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A descriptor or two for every connection, MicroVM and query: as many as the system lets us have.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        warn!(%error, "the limit on open files was not raised");
    }
}

async fn open_objects(directory: PathBuf, principals: Arc<Principals>) -> io::Result<Objects> {
    let callers = Arc::new(ObjectCallers::new(principals, REGION));
    let open = move || Objects::open(&directory, callers, colibri_objects::Settings::new(REGION));
    tokio::task::spawn_blocking(open)
        .await
        .map_err(io::Error::other)?
}

async fn open_logs(directory: PathBuf) -> io::Result<Logs> {
    let open = move || Logs::open(&directory, colibri_logs::Settings::default());
    tokio::task::spawn_blocking(open)
        .await
        .map_err(io::Error::other)?
}

/// Drops log events that are older than their retention: now, and then every hour.
async fn drop_old_logs(logs: Logs, shutdown: CancellationToken) {
    let mut hours = tokio::time::interval(LOG_RETENTION_INTERVAL);
    hours.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = hours.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let logs = logs.clone();
        match tokio::task::spawn_blocking(move || logs.expire()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(%error, cause = error.source(), "old log events were not dropped");
            }
            Err(error) => warn!(%error, "dropping old log events was interrupted"),
        }
    }
}

async fn hypervisor(settings: &Settings) -> Result<(Arc<Qemu>, GuestAssets), Box<dyn Error>> {
    let directory = settings.guest_dir();
    let guest = GuestAssets::load(&directory)?;
    let kernel = Architecture::of_host()
        .and_then(|architecture| guest.of_architecture(architecture))
        .map(|files| files.kernel.clone())
        .ok_or_else(|| DriverError::NoGuest(directory.display().to_string()))?;
    let (installation, verdict) = driver::choose(settings, &kernel).await?;
    let described = &installation.description;
    match verdict {
        Some(verdict) if !verdict.usable => {
            warn!(
                reason = verdict.reason,
                "KVM is not usable; machines run in software, 10 to 30 times slower"
            );
        }
        _ => {}
    }
    info!(
        qemu = described.version,
        accelerator = described.accelerator,
        "hypervisor"
    );
    let cpu = CpuBound {
        processors_per_vcpu: settings.capacity.processors_per_vcpu,
    };
    Ok((Arc::new(Qemu::new(installation).bounded(cpu)), guest))
}

fn builder_settings(settings: &Settings, data: &Path) -> BuilderSettings {
    let mut builder = BuilderSettings::below(data);
    if let Some(mib) = settings.images.base_images_mib {
        builder.base_images_bytes = mib.saturating_mul(1024 * 1024);
    }
    if let Some(hours) = settings.images.base_image_hours {
        builder.base_image_age = Duration::from_secs(hours.saturating_mul(3600));
    }
    builder
}

fn network_settings(settings: &Settings, data: &Path) -> Result<NetworkSettings, SettingsError> {
    let chosen = &settings.network;
    let mut network = NetworkSettings::new(data);
    network.slots = chosen.slots.unwrap_or(network.slots);
    network.spare_slots = chosen.spare_slots.unwrap_or(network.spare_slots);
    network.base_uid = chosen.base_uid.unwrap_or(network.base_uid);
    network.flows_per_slot = chosen.flows_per_slot.unwrap_or(network.flows_per_slot);
    network.dns_upstreams.clone_from(&chosen.dns_upstreams);
    if let Some(block) = &chosen.address_block {
        network.address_block = Some(parsed("network.address_block", block)?);
    }
    for range in &chosen.refused_ranges {
        network
            .refused_ranges
            .push(parsed("network.refused_ranges", range)?);
    }
    network.declared_ranges = settings.vpc.declared()?.declared_ranges();
    Ok(network)
}

/// What network connectors may name, and how many there may be.
fn connect_vpc(
    settings: &Settings,
    choices: &mut colibri_control::Settings,
) -> Result<(), SettingsError> {
    choices.vpc = settings.vpc.declared()?;
    choices.max_connectors = settings
        .vpc
        .max_connectors
        .unwrap_or(choices.max_connectors);
    let versions = settings.vpc.max_connector_versions;
    choices.max_connector_versions = versions.unwrap_or(choices.max_connector_versions);
    Ok(())
}

/// What the file says of machines that are kept for speed; the rest stays as it is by default.
fn set_capacity(settings: &Settings, choices: &mut colibri_control::Settings) {
    let capacity = &settings.capacity;
    choices.max_running = capacity.microvms.unwrap_or(choices.max_running);
    choices.reserve_mib = capacity.reserve_mib.unwrap_or(choices.reserve_mib);
    choices.disk_reserve_mib = capacity
        .disk_reserve_mib
        .unwrap_or(choices.disk_reserve_mib);
    let overcommit = capacity
        .memory_overcommit
        .unwrap_or(colibri_control::MEMORY_OVERCOMMIT);
    choices.vcpus_at_most = capacity.vcpus_at_most;
    choices.max_memory_mib = colibri_control::memory_limit_mib(overcommit, choices.reserve_mib);
}

fn keep_for_speed(settings: &Settings, choices: &mut colibri_control::Settings) {
    let (pool, spares, hot) = (&mut choices.pool, &mut choices.spares, &mut choices.hot);
    pool.enabled = settings.pool.enabled.unwrap_or(pool.enabled);
    pool.machines_per_version = settings
        .pool
        .machines_per_version
        .unwrap_or(pool.machines_per_version);
    pool.memory_mib = settings.pool.memory_mib.unwrap_or(pool.memory_mib);
    spares.enabled = settings.spares.enabled.unwrap_or(spares.enabled);
    spares.processes_per_version = settings
        .spares
        .processes_per_version
        .unwrap_or(spares.processes_per_version);
    spares.memory_mib = settings.spares.memory_mib.unwrap_or(spares.memory_mib);
    hot.enabled = settings.hot.enabled.unwrap_or(hot.enabled);
    hot.machines = settings.hot.machines.unwrap_or(hot.machines);
    hot.memory_mib = settings.hot.memory_mib.unwrap_or(hot.memory_mib);
    hot.longest = settings
        .hot
        .seconds
        .map_or(hot.longest, Duration::from_secs);
}

fn endpoint_form(settings: &Settings, domain: &Domain, listen: ListenAddress) -> EndpointForm {
    let (address, port) = match listen {
        ListenAddress::Loopback { port } => ("127.0.0.1".to_owned(), port),
        ListenAddress::Address(address) => (address.ip().to_string(), address.port()),
    };
    let with_port = |host: &str| match settings.ingress.advertised_port.unwrap_or(port) {
        443 => host.to_owned(),
        port => format!("{host}:{port}"),
    };
    match settings.ingress.endpoints {
        Endpoints::Name => EndpointForm::UnderDomain(with_port(domain.as_str())),
        Endpoints::Address => EndpointForm::Plain(with_port(&address)),
    }
}

/// The key of list tokens: made once, so that a list goes on over a restart.
fn page_key(path: &Path) -> Result<[u8; 32], Box<dyn Error>> {
    let mut key = [0; 32];
    match File::open(path) {
        Ok(mut file) => file
            .read_exact(&mut key)
            .map_err(ServeError::io("read", path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            rand::rngs::OsRng.try_fill_bytes(&mut key)?;
            let mut file = File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(path)
                .map_err(ServeError::io("create", path))?;
            file.write_all(&key)
                .and_then(|()| file.sync_all())
                .map_err(ServeError::io("write", path))?;
        }
        Err(error) => return Err(ServeError::io("open", path)(error).into()),
    }
    Ok(key)
}

async fn wait_for_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        warn!("signals cannot be watched; only SIGKILL ends this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::take_directory;

    #[tokio::test(start_paused = true)]
    async fn a_data_directory_that_was_open_to_others_is_closed_and_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
        let _lock = take_directory(&data).await.unwrap();
        assert_eq!(
            fs::metadata(&data).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert!(take_directory(&data).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_killed_daemon_was_starting_lets_go_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let of_the_killed = take_directory(directory.path()).await.unwrap();
        let next = take_directory(directory.path());
        let (next, ()) = tokio::join!(next, async move { drop(of_the_killed) });
        next.unwrap();
    }
}
