//! `colibri doctor`: what this machine has and lacks, line by line, with the command that mends each.

use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use colibri_hypervisor::Architecture;
use colibri_image::GuestAssets;
use serde_json::json;
use tokio::process::Command;

use crate::driver;
use crate::settings::Settings;

/// What is wanted of the disk for a few images, bytes.
const DISK_WANTED: u64 = 10 * 1024 * 1024 * 1024;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Good,
    /// Colibri works, but slower or with less.
    Limited,
    Missing,
}

/// One line.
struct Finding {
    what: &'static str,
    outcome: Outcome,
    seen: String,
    mend: Option<String>,
}

impl Finding {
    fn good(what: &'static str, seen: impl Into<String>) -> Self {
        Self {
            what,
            outcome: Outcome::Good,
            seen: seen.into(),
            mend: None,
        }
    }

    fn missing(what: &'static str, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what,
            outcome: Outcome::Missing,
            seen: seen.into(),
            mend: Some(mend.into()),
        }
    }

    fn limited(what: &'static str, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what,
            outcome: Outcome::Limited,
            seen: seen.into(),
            mend: Some(mend.into()),
        }
    }
}

/// Runs every check and prints what it found; fails when something is missing.
pub(crate) async fn doctor(
    settings: &Settings,
    as_json: bool,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut findings = vec![privileges(), guest_files(settings)];
    let (finding, machine) = accelerator(settings).await;
    findings.push(finding);
    for (what, program, package) in [
        ("container builds", "buildah", "buildah"),
        ("container runtime", "runc", "runc"),
        ("root disks", "mkfs.ext4", "e2fsprogs"),
        ("disk overlays", "qemu-img", "qemu-utils"),
        ("build namespaces", "unshare", "util-linux"),
        ("build networks", "nsenter", "util-linux"),
        ("network namespaces", "ip", "iproute2"),
        ("packet filter", "nft", "nftables"),
    ] {
        findings.push(program_found(what, program, package).await);
    }
    findings.extend(netavark().await);
    findings.push(cgroups());
    findings.push(network().await);
    findings.extend(forwarding().await);
    findings.push(disk(&settings.data_dir()));
    findings.push(local_names(
        settings
            .ingress
            .domain
            .as_deref()
            .unwrap_or("microvm.localhost"),
    ));
    let complete = findings
        .iter()
        .all(|finding| finding.outcome != Outcome::Missing);
    print(&findings, &machine, as_json);
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn print(findings: &[Finding], machine: &serde_json::Value, as_json: bool) {
    if as_json {
        let lines: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({
                    "what": finding.what,
                    "outcome": match finding.outcome {
                        Outcome::Good => "good",
                        Outcome::Limited => "limited",
                        Outcome::Missing => "missing",
                    },
                    "seen": finding.seen,
                    "mend": finding.mend,
                })
            })
            .collect();
        println!("{}", json!({ "machine": machine, "findings": lines }));
        return;
    }
    for finding in findings {
        let mark = match finding.outcome {
            Outcome::Good => "ok     ",
            Outcome::Limited => "limited",
            Outcome::Missing => "MISSING",
        };
        println!("{mark}  {}: {}", finding.what, finding.seen);
        if let Some(mend) = &finding.mend {
            println!("         to mend: {mend}");
        }
    }
}

fn privileges() -> Finding {
    if rustix::process::geteuid().is_root() {
        return Finding::good("privileges", "root");
    }
    let mend = "run colibri as root (sudo colibri serve)";
    Finding::missing(
        "privileges",
        "not root: taps, namespaces and containers need it",
        mend,
    )
}

fn guest_files(settings: &Settings) -> Finding {
    let directory = settings.guest_dir();
    let found = GuestAssets::load(&directory).map(|assets| {
        Architecture::of_host()
            .and_then(|architecture| assets.of_architecture(architecture).cloned())
    });
    match found {
        Ok(Some(files)) => Finding::good(
            "guest kernel and agent",
            format!("Linux {}", files.kernel_version),
        ),
        Ok(None) => Finding::missing(
            "guest kernel and agent",
            format!(
                "none for this host's architecture in {}",
                directory.display()
            ),
            "scripts/setup",
        ),
        Err(error) => {
            Finding::missing("guest kernel and agent", error.to_string(), "scripts/setup")
        }
    }
}

/// The accelerator, by a guest really started on it; and what the machine is, for reports.
async fn accelerator(settings: &Settings) -> (Finding, serde_json::Value) {
    const WHAT: &str = "accelerator";
    let kernel = Architecture::of_host().and_then(|architecture| {
        GuestAssets::load(&settings.guest_dir())
            .ok()?
            .of_architecture(architecture)
            .map(|files| files.kernel.clone())
    });
    let Some(kernel) = kernel else {
        let finding = Finding::missing(
            WHAT,
            "not probed: there is no guest kernel to start",
            "scripts/setup",
        );
        return (finding, json!({}));
    };
    match driver::choose(settings, &kernel).await {
        Err(error) => (
            Finding::missing(WHAT, error.to_string(), "scripts/setup"),
            json!({}),
        ),
        Ok((installation, verdict)) => {
            let described = &installation.description;
            let machine = json!({
                "accelerator": described.accelerator,
                "qemu": described.version,
                "machine_type": described.machine_type,
                "cpu_model": described.cpu_model,
            });
            let qemu = format!("QEMU {}", described.version);
            let finding = match verdict {
                Some(verdict) if verdict.usable => {
                    Finding::good(WHAT, format!("KVM, {qemu}: {}", verdict.reason))
                }
                Some(verdict) => Finding::limited(
                    WHAT,
                    format!(
                        "software emulation, {qemu}; KVM is not usable: {}",
                        verdict.reason
                    ),
                    format!(
                        "run on hardware, or on a virtual machine with nested virtualization, for full speed; \
                         remove {} to have it probed again",
                        settings.data_dir().join(driver::VERDICT_FILE).display()
                    ),
                ),
                None => Finding::limited(
                    WHAT,
                    format!("software emulation, {qemu}, as configured"),
                    "set hypervisor.accelerator = \"auto\"",
                ),
            };
            (finding, machine)
        }
    }
}

async fn program_found(what: &'static str, program: &str, package: &str) -> Finding {
    let found = search_path(program);
    let Some(path) = found else {
        return Finding::missing(
            what,
            format!("{program} is not installed"),
            format!("apt-get install {package}"),
        );
    };
    let version = Command::new(&path)
        .arg(if matches!(program, "ip" | "mkfs.ext4") {
            "-V"
        } else {
            "--version"
        })
        .output()
        .await;
    let text = version
        .map(|output| [output.stdout, output.stderr].concat())
        .unwrap_or_default();
    let first_line = String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let seen = if first_line.is_empty() {
        path.display().to_string()
    } else {
        first_line
    };
    Finding::good(what, seen)
}

fn search_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Buildah 1.33 and later do not start without netavark, whatever network they are told to use.
async fn netavark() -> Option<Finding> {
    const PLACES: [&str; 4] = [
        "/usr/lib/podman/netavark",
        "/usr/libexec/podman/netavark",
        "/usr/local/lib/podman/netavark",
        "/usr/local/libexec/podman/netavark",
    ];
    let version = Command::new(search_path("buildah")?)
        .arg("--version")
        .output()
        .await
        .ok()?;
    // `buildah version 1.28.2 (image-spec …)`
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    let mut numbers = text.split_whitespace().nth(2)?.split('.').map(str::parse);
    let release: (u32, u32) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let is_there = PLACES.iter().any(|place| Path::new(place).is_file());
    (release >= (1, 33) && !is_there).then(|| {
        Finding::missing(
            "container networks",
            "this release of buildah does not start without netavark",
            "apt-get install netavark",
        )
    })
}

/// Whether a machine can be bounded.
fn cgroups() -> Finding {
    const WHAT: &str = "cgroups";
    match colibri_hypervisor::cgroup::unavailable_bounds() {
        bounds if bounds.is_empty() => {
            Finding::good(WHAT, "memory, processes and CPU can be bounded")
        }
        bounds => Finding::limited(
            WHAT,
            format!(
                "no bound on machines' {}: a guest can take all that the host has of it",
                bounds.join(", ")
            ),
            "run as root where /sys/fs/cgroup is writable and has the controllers memory, pids and cpu",
        ),
    }
}

async fn network() -> Finding {
    const WHAT: &str = "tap, namespace and NAT";
    match colibri_network::probe().await {
        Ok(()) => Finding::good(WHAT, "made, tried and removed"),
        Err(error) => Finding::missing(
            WHAT,
            error.to_string(),
            "run as root on a kernel with tun, veth and nf_tables (modprobe tun veth nf_tables nft_masq)",
        ),
    }
}

async fn forwarding() -> Vec<Finding> {
    const WHAT: &str = "forwarding";
    match colibri_network::forwarding_obstacles().await {
        Ok(obstacles) => obstacles
            .into_iter()
            .map(|obstacle| {
                Finding::limited(
                    WHAT,
                    obstacle,
                    "let the traffic of Colibri's links pass in that chain",
                )
            })
            .collect(),
        Err(error) => vec![Finding::limited(
            WHAT,
            error.to_string(),
            "apt-get install nftables",
        )],
    }
}

fn disk(directory: &Path) -> Finding {
    const WHAT: &str = "disk";
    let existing = directory
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize;
            let seen = format!("{} GiB free for {}", free >> 30, directory.display());
            if free >= DISK_WANTED {
                Finding::good(WHAT, seen)
            } else {
                Finding::limited(
                    WHAT,
                    seen,
                    "free some space, or choose another place with --data-dir",
                )
            }
        }
        Err(error) => Finding::missing(
            WHAT,
            format!("{}: {error}", existing.display()),
            "choose another --data-dir",
        ),
    }
}

/// Whether programs that resolve through the C library find names under the ingress domain.
fn local_names(domain: &str) -> Finding {
    const WHAT: &str = "endpoint names";
    let name = format!("colibri-doctor.{domain}");
    match (name.as_str(), 443_u16).to_socket_addrs() {
        Ok(mut addresses) => {
            let first = addresses
                .next()
                .map(|address| address.ip().to_string())
                .unwrap_or_default();
            Finding::good(WHAT, format!("{name} resolves to {first}"))
        }
        Err(_) => Finding::limited(
            WHAT,
            format!(
                "{name} does not resolve through the C library (curl and browsers resolve .localhost themselves)"
            ),
            "apt-get install libnss-myhostname, or set ingress.endpoints = \"address\"",
        ),
    }
}
