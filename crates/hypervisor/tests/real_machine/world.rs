//! What the tests share: the base that all their machines come from, and how a test talks to the
//! guest. One cold boot pays for all of them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use colibri_guest_protocol::client::{GuestClient, GuestEvent};
use colibri_guest_protocol::message::{ApplicationSpec, Identity};
use colibri_hypervisor::accelerator::{Accelerator, find_program};
use colibri_hypervisor::manifest::BaseManifest;
use colibri_hypervisor::qemu::{Installation, Qemu};
use colibri_hypervisor::{
    Architecture, BootSpec, Isolation, LaunchSpec, Machine, MachineShape, NetworkAttachment,
    SpareSpec, Vmm, VmmError, sparse,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::timeout;

pub(crate) const MEMORY_MIB: u32 = 256;
/// User ids that belong to nobody.
const FIRST_UID: u32 = 961_000;
const ROOT_DISK_LENGTH: u64 = 48 * 1024 * 1024;

/// Says something past the test harness's capture.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A bound of `seconds`, longer where the accelerator is slower.
pub(crate) fn bound(seconds: u64) -> Duration {
    let patience = std::env::var("COLIBRI_TEST_PATIENCE").ok();
    Duration::from_secs(seconds * patience.map_or(1, |factor| factor.parse().unwrap()))
}

pub(crate) fn guest_directory() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("COLIBRI_GUEST_DIR").map_or_else(
        || workspace.join("target/guest").join(std::env::consts::ARCH),
        PathBuf::from,
    )
}

fn accelerator() -> Accelerator {
    match std::env::var("COLIBRI_TEST_ACCELERATOR").as_deref() {
        Ok("kvm") => Accelerator::Kvm,
        _ => Accelerator::Tcg,
    }
}

/// A driver and a base.
pub(crate) struct World {
    pub(crate) root: PathBuf,
    pub(crate) qemu: Qemu,
    pub(crate) base: PathBuf,
    pub(crate) manifest: BaseManifest,
}

static WORLD: OnceCell<Option<World>> = OnceCell::const_new();
static ROOT: OnceLock<PathBuf> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The shared world; `None`, with the reason said, where there cannot be one.
pub(crate) async fn world() -> Option<&'static World> {
    let made = WORLD.get_or_init(|| async {
        match missing() {
            None => Some(World::make().await),
            Some(reason) => {
                assert!(
                    std::env::var_os("COLIBRI_TEST_REQUIRED").is_none(),
                    "real machines are required here: {reason}"
                );
                say(&format!("skipped: tests of real machines: {reason}"));
                None
            }
        }
    });
    made.await.as_ref()
}

fn missing() -> Option<String> {
    let guest = guest_directory();
    for name in ["vmlinux", "initramfs.img", "guest.json"] {
        if !guest.join(name).exists() {
            return Some(format!(
                "no {name} in {}: run scripts/setup",
                guest.display()
            ));
        }
    }
    if !rustix::process::geteuid().is_root() {
        return Some("they need root, for users and namespaces of the machines' own".to_owned());
    }
    if find_program(Architecture::of_host()?).is_err() {
        return Some("no QEMU: run scripts/setup".to_owned());
    }
    match fs::read("/usr/bin/busybox") {
        Ok(program) if !program[..4096].windows(9).any(|part| part == b"/ld-linux") => None,
        _ => Some("no static /usr/bin/busybox: run scripts/setup".to_owned()),
    }
}

extern "C" fn remove_root() {
    if let Some(root) = ROOT.get() {
        let _ = fs::remove_dir_all(root);
    }
}

impl World {
    async fn make() -> Self {
        let root = tempfile::Builder::new()
            .prefix("colibri-real-machine-")
            .tempdir()
            .unwrap()
            .keep();
        ROOT.set(root.clone()).unwrap();
        // SAFETY: the function is of the program itself and does not unwind; a static is never dropped, so
        // the directory has no other end.
        unsafe { libc::atexit(remove_root) };
        let architecture = Architecture::of_host().unwrap();
        let qemu = Qemu::new(
            Installation::find(architecture, accelerator())
                .await
                .unwrap(),
        );
        say(&format!("machines run on {:?}", qemu.description()));
        make_root_disk(&root);
        let base = make_directory(&root, "base");
        let machine = boot(&qemu, &root, architecture).await;
        let mut session = Session::open(machine.as_ref()).await;
        session.start_application().await;
        session.pass_after(1).await;
        drop(session);
        let boot = machine.record();
        let manifest = machine.freeze(&base).await.unwrap();
        assert!(!Path::new(&format!("/proc/{}", boot.pid)).exists());
        assert!(cgroups(&boot.id).is_empty());
        Self {
            root,
            qemu,
            base,
            manifest,
        }
    }

    /// A name that no other machine has, and its directory below `parent`.
    pub(crate) fn place(&self, parent: &Path, name: &str) -> Guest<'_> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("test-{}-{number}-{name}", std::process::id());
        Guest {
            world: self,
            directory: make_directory(parent, &id),
            uid: FIRST_UID + number,
            id,
        }
    }

    /// A running clone of the base.
    pub(crate) async fn clone_of_base(&self, name: &str) -> (Guest<'_>, Arc<dyn Machine>) {
        let guest = self.place(&self.root, name);
        let machine = guest.launch(false).await.unwrap();
        machine.resume().await.unwrap();
        (guest, machine)
    }

    /// Fails when a byte of the base, or its mode, is not as it was frozen.
    pub(crate) fn check_base(&self) {
        let manifest = &self.manifest;
        for file in [
            &manifest.memory,
            &manifest.devices,
            &manifest.root_disk,
            &manifest.disk,
        ] {
            let now = sparse::describe(&self.base, &file.name).unwrap();
            assert_eq!((now.blake3, now.length), (file.blake3.clone(), file.length));
            let metadata = fs::metadata(self.base.join(&file.name)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o444);
        }
    }
}

/// A clone's name, directory and user, whether it runs or not.
pub(crate) struct Guest<'a> {
    world: &'a World,
    pub(crate) id: String,
    pub(crate) directory: PathBuf,
    pub(crate) uid: u32,
}

impl Guest<'_> {
    pub(crate) async fn launch(&self, resume: bool) -> Result<Arc<dyn Machine>, VmmError> {
        self.launch_from(&self.world.base, resume).await
    }

    /// A process in this place that waits to become any machine of the base.
    pub(crate) async fn prepare(&self) -> Result<Arc<dyn Machine>, VmmError> {
        let spec = SpareSpec {
            id: self.id.clone(),
            directory: self.directory.clone(),
            base: self.world.base.clone(),
            network: Some(network()),
            isolation: Isolation {
                uid: Some(self.uid),
            },
        };
        self.world.qemu.prepare(spec).await
    }

    /// A process that has run a machine of the base and was rewound.
    pub(crate) async fn prepare_by_running(&self) -> Result<Arc<dyn Machine>, VmmError> {
        let machine = self.start(&self.world.base, false, true).await?;
        machine.resume().await?;
        let mut session = Session::open(machine.as_ref()).await;
        session.assume("learning", 13).await;
        session.pass_as("learning").await;
        drop(session);
        machine.pause().await?;
        machine.rewind().await?;
        Ok(machine)
    }

    pub(crate) async fn launch_from(
        &self,
        base: &Path,
        resume: bool,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        self.start(base, resume, false).await
    }

    async fn start(
        &self,
        base: &Path,
        resume: bool,
        rewindable: bool,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        let spec = LaunchSpec {
            id: self.id.clone(),
            directory: self.directory.clone(),
            base: base.to_owned(),
            resume,
            rewindable,
            network: Some(network()),
            isolation: Isolation {
                uid: Some(self.uid),
            },
        };
        self.world.qemu.launch(spec).await
    }

    /// Fails unless nothing but files is left of a machine that had process `pid`.
    pub(crate) fn check_gone(&self, pid: Option<u32>) {
        if let Some(pid) = pid {
            assert!(!Path::new(&format!("/proc/{pid}")).exists());
        }
        assert!(running_below(&self.directory).is_empty());
        assert_eq!(cgroups(&self.id), Vec::<PathBuf>::new());
        for socket in ["qmp.sock", "control.sock"] {
            assert!(!self.directory.join(socket).exists());
        }
    }
}

/// Processes that live in a directory.
fn running_below(directory: &Path) -> Vec<PathBuf> {
    let working_directories = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let working_directory = fs::read_link(entry.ok()?.path().join("cwd")).ok()?;
        working_directory
            .starts_with(directory)
            .then_some(working_directory)
    });
    working_directories.collect()
}

/// Directories of a machine's cgroup, in every hierarchy.
pub(crate) fn cgroups(id: &str) -> Vec<PathBuf> {
    ["", "memory", "cpu", "pids"]
        .iter()
        .map(|hierarchy| {
            Path::new("/sys/fs/cgroup")
                .join(hierarchy)
                .join("colibri")
                .join(id)
        })
        .filter(|directory| directory.exists())
        .collect()
}

fn make_directory(parent: &Path, name: &str) -> PathBuf {
    let directory = parent.join(name);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .unwrap();
    directory
}

fn make_root_disk(root: &Path) {
    let tree = make_directory(root, "tree");
    for name in ["bin", "data", "dev", "etc", "proc", "sys", "run", "tmp"] {
        fs::create_dir(tree.join(name)).unwrap();
    }
    fs::copy("/usr/bin/busybox", tree.join("bin/busybox")).unwrap();
    for applet in [
        "cat", "chmod", "dd", "hostname", "md5sum", "mount", "sh", "sleep", "sync", "uname",
    ] {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    fs::write(tree.join("bin/check"), include_str!("check.sh")).unwrap();
    fs::set_permissions(tree.join("bin/check"), fs::Permissions::from_mode(0o755)).unwrap();
    for answer in [7, 8] {
        let program = tree.join(format!("bin/answer-{answer}"));
        fs::write(&program, program_that_exits_with(answer)).unwrap();
    }
    let disk = root.join("root.raw");
    File::create(&disk)
        .unwrap()
        .set_len(ROOT_DISK_LENGTH)
        .unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-d"])
        .args([&tree, &disk])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .status();
    assert!(made.unwrap().success(), "mkfs.ext4");
}

/// The least program for Linux on x86-64: 64 bytes of header, 56 of its one segment, three instructions.
fn program_that_exits_with(status: u8) -> Vec<u8> {
    const AT: u64 = 0x40_0000;
    let code = [0xbf, status, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let length = 120 + code.len() as u64;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    program.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    program.extend([AT + 120, 64, 0].map(u64::to_le_bytes).concat());
    program.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    program.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    program.extend(
        [0, AT, AT, length, length, 4096]
            .map(u64::to_le_bytes)
            .concat(),
    );
    program.extend(code);
    program
}

async fn boot(qemu: &Qemu, root: &Path, architecture: Architecture) -> Arc<dyn Machine> {
    let spec = BootSpec {
        id: format!("test-{}-boot", std::process::id()),
        directory: make_directory(root, "boot"),
        shape: MachineShape {
            architecture,
            vcpus: 1,
            memory_mib: MEMORY_MIB,
        },
        kernel: guest_directory().join("vmlinux"),
        initramfs: guest_directory().join("initramfs.img"),
        kernel_arguments: Vec::new(),
        root_disk: root.join("root.raw"),
        network: Some(network()),
        isolation: Isolation {
            uid: Some(FIRST_UID),
        },
    };
    qemu.boot(spec).await.unwrap()
}

/// A network namespace with a tap in it, both of which go with their last descriptor.
fn network() -> NetworkAttachment {
    let made = std::thread::spawn(|| {
        // SAFETY: the flag concerns this thread alone, which ends with this closure.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let tap = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .unwrap();
        // SAFETY: all zero is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"tap0") {
            *to = from.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
        // SAFETY: `request` is an `ifreq` that outlives the call, which is what TUNSETIFF takes.
        let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        NetworkAttachment {
            tap: OwnedFd::from(tap),
            namespace: File::open("/proc/thread-self/ns/net").unwrap().into(),
        }
    });
    made.join().unwrap()
}

/// A session with the guest's agent, and what the application says in it.
pub(crate) struct Session {
    client: GuestClient,
    events: mpsc::Receiver<GuestEvent>,
    said: String,
}

/// A finished round of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) number: u64,
    pub(crate) hostname: String,
    pub(crate) machine_id: String,
}

impl Session {
    pub(crate) async fn open(machine: &dyn Machine) -> Self {
        let (sender, events) = mpsc::channel(1024);
        let opened = async {
            loop {
                let stream = machine.control().await.unwrap();
                // A guest that boots has no port yet.
                if let Ok(client) = GuestClient::connect(stream, sender.clone(), bound(5)).await {
                    return client;
                }
            }
        };
        let Ok(client) = timeout(bound(60), opened).await else {
            panic!("no session; the console: {:?}", machine.console().await);
        };
        Self {
            client,
            events,
            said: String::new(),
        }
    }

    async fn start_application(&self) {
        let spec = ApplicationSpec {
            arguments: vec!["/bin/check".to_owned()],
            environment: vec!["PATH=/bin".to_owned()],
            working_directory: "/".to_owned(),
            user: String::new(),
            // To drop the page cache, and to end the machine.
            all_capabilities: true,
            stop_signal: 15,
            name_servers: Vec::new(),
        };
        let started = self.client.start_application(spec, bound(60)).await;
        assert!(started.unwrap() > 1);
    }

    /// Gives the machine a host name, and a machine-id made of `number`.
    pub(crate) async fn assume(&self, hostname: &str, number: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let identity = Identity {
            microvm_id: hostname.to_owned(),
            hostname: hostname.to_owned(),
            machine_id: format!("{number:032x}"),
            boot_id: format!("01234567-89ab-cdef-0123-{number:012x}"),
            entropy: "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=".to_owned(),
            wall_clock_unix_nanos: u64::try_from(now.as_nanos()).unwrap(),
            reset_connections: true,
        };
        self.client
            .assume_identity(identity, bound(30))
            .await
            .unwrap();
    }

    pub(crate) async fn ping(&self) {
        self.client.ping(bound(30)).await.unwrap();
    }

    /// The first pass from `number` on.
    pub(crate) async fn pass_after(&mut self, number: u64) -> Pass {
        self.pass(|pass| pass.number >= number).await
    }

    /// The first pass that the machine makes under a host name.
    pub(crate) async fn pass_as(&mut self, hostname: &str) -> Pass {
        self.pass(|pass| pass.hostname == hostname).await
    }

    /// Waits until the application finds something changed that it had not changed.
    pub(crate) async fn failure(&mut self) -> String {
        self.find(|line| line.contains("FAIL").then(|| line.to_owned()))
            .await
    }

    /// Exit status of the program in memory, when the application has run it next.
    pub(crate) async fn answer(&mut self) -> u8 {
        self.find(|line| {
            line.trim()
                .strip_prefix("answer ")?
                .strip_suffix(';')?
                .parse()
                .ok()
        })
        .await
    }

    async fn pass(&mut self, wanted: impl Fn(&Pass) -> bool) -> Pass {
        self.find(|line| {
            assert!(!line.contains("FAIL"), "{line}");
            parse(line).filter(&wanted)
        })
        .await
    }

    /// The first line that is wanted.
    async fn find<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> T {
        let found = async {
            loop {
                while let Some(line) = self.line() {
                    if let Some(found) = wanted(&line) {
                        return found;
                    }
                }
                match self.events.recv().await {
                    Some(GuestEvent::Stdout(bytes) | GuestEvent::Stderr(bytes)) => {
                        self.said.push_str(&String::from_utf8_lossy(&bytes));
                    }
                    other => panic!("the guest sent {other:?} after {:?}", self.said),
                }
            }
        };
        timeout(bound(60), found)
            .await
            .expect("no such line in time")
    }

    fn line(&mut self) -> Option<String> {
        let end = self.said.find('\n')?;
        Some(self.said.drain(..=end).collect())
    }
}

fn parse(line: &str) -> Option<Pass> {
    let mut words = line.trim().strip_suffix(';')?.split(' ');
    (words.next()? == "pass").then_some(())?;
    Some(Pass {
        number: words.next()?.parse().ok()?,
        hostname: words.next()?.to_owned(),
        machine_id: words.next()?.to_owned(),
    })
}
