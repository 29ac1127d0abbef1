//! QEMU's command line. The devices of a machine are the same at first boot, at every launch and at
//! every resume, in the same places: a snapshot holds their state by place.

use colibri_guest_protocol::GUEST_MAC;
use serde_json::json;

use super::Installation;
use crate::machine::{Architecture, MachineShape};

/// Numbers of the descriptors that a QEMU process is given.
pub(super) mod fd {
    /// Listening socket of the machine protocol.
    pub(in crate::qemu) const QMP: i32 = 10;
    /// Listening socket of the control channel.
    pub(in crate::qemu) const CONTROL: i32 = 11;
    /// The tap.
    pub(in crate::qemu) const TAP: i32 = 12;
    /// Root disk, read-only.
    pub(in crate::qemu) const ROOT: i32 = 13;
    /// Disk as frozen, read-only (launch).
    pub(in crate::qemu) const FROZEN: i32 = 14;
    /// The machine's own overlay, read-write.
    pub(in crate::qemu) const OVERLAY: i32 = 15;
    /// Where devices' state is saved; opened anew for every save, so that each starts at the
    /// beginning of an empty file.
    pub(in crate::qemu) const DEVICES_OUT: i32 = 16;
    /// Devices' state to load, read-only (launch).
    pub(in crate::qemu) const DEVICES_IN: i32 = 17;
    /// Guest memory.
    pub(in crate::qemu) const MEMORY: i32 = 18;
    /// Kernel (first boot).
    pub(in crate::qemu) const KERNEL: i32 = 19;
    /// Initial RAM file system (first boot).
    pub(in crate::qemu) const INITRAMFS: i32 = 20;
    /// `/dev/kvm`.
    pub(in crate::qemu) const KVM: i32 = 21;
    /// Overlay of the suspended machine that a spare becomes; a set, given later.
    pub(in crate::qemu) const OWN_OVERLAY: i32 = 22;
    /// Devices' state of that machine; a set, given later.
    pub(in crate::qemu) const OWN_DEVICES: i32 = 23;
    /// One end of the way to a process's translated code.
    pub(in crate::qemu) const CODE: i32 = 24;
    /// Overlay of a process that is rewound; a set, given later.
    pub(in crate::qemu) const FRESH_OVERLAY: i32 = 25;
    /// State that is loaded into a process that has run; a set, given later.
    pub(in crate::qemu) const STATE: i32 = 26;
}

/// Node that the guest's disk hangs on; what is below it can be exchanged before a launch.
pub(super) const TOP_NODE: &str = "top";
/// Disk as frozen.
pub(super) const FROZEN_NODE: &str = "frozen";

/// How a machine starts.
pub(super) enum Start<'a> {
    /// From its kernel, memory in a fresh shared file.
    Boot {
        /// The kernel's command line.
        kernel_arguments: &'a str,
    },
    /// From a base, memory mapped privately, devices' state to be loaded.
    Launch {
        /// Whether it is given a way to its translated code.
        rewindable: bool,
    },
}

/// The whole command line but the program.
pub(super) fn command_line(
    installation: &Installation,
    id: &str,
    shape: MachineShape,
    has_network: bool,
    start: &Start<'_>,
) -> Vec<String> {
    let mut line = Line::default();
    line.option("-name", id)
        .flags(&["-nodefaults", "-no-user-config", "-no-reboot", "-S"])
        .option("-display", "none")
        .option("-vga", "none")
        // The guest powering off leaves the process paused, so that its console can still be read.
        .option("-action", "shutdown=pause")
        .option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        )
        .option("-accel", installation.accelerator_option())
        .option("-cpu", &installation.description.cpu_model)
        .option("-smp", shape.vcpus.to_string())
        .option("-m", format!("{}M", shape.memory_mib));
    if installation.has_kvm_by_descriptor() {
        line.descriptor(fd::KVM);
    }
    machine(&mut line, installation, shape, start);
    channels(&mut line);
    disks(&mut line, start);
    if has_network {
        line.option("-netdev", format!("tap,id=net0,fd={}", fd::TAP))
            .option(
                "-device",
                format!("virtio-net-pci,id=nic0,netdev=net0,mac={GUEST_MAC},romfile=,addr=0x4"),
            );
    }
    line.option("-object", "rng-random,id=rng0,filename=/dev/urandom")
        .option("-device", "virtio-rng-pci,id=entropy,rng=rng0,addr=0x5")
        // A new generation at every launch, for kernels that watch for it.
        .option("-device", "vmgenid,guid=auto");
    if let Start::Boot { kernel_arguments } = start {
        line.option("-kernel", reopened(fd::KERNEL))
            .option("-initrd", reopened(fd::INITRAMFS))
            .option("-append", *kernel_arguments);
    }
    line.0
}

fn machine(line: &mut Line, installation: &Installation, shape: MachineShape, start: &Start<'_>) {
    let platform = match shape.architecture {
        Architecture::X86_64 => "usb=off,vmport=off,",
        Architecture::Aarch64 => "gic-version=3,",
    };
    line.option(
        "-machine",
        format!(
            "{},{platform}memory-backend=ram,mem-merge=off,dump-guest-core=off",
            installation.description.machine_type
        ),
    );
    let sharing = match start {
        Start::Boot { .. } => "share=on",
        // Written to privately, while QEMU itself has the base open for reading only.
        Start::Launch { .. } => "share=off,readonly=on,rom=off",
    };
    line.option(
        "-object",
        format!(
            "memory-backend-file,id=ram,size={}M,mem-path={},{sharing}",
            shape.memory_mib,
            reopened(fd::MEMORY)
        ),
    );
    if let Start::Launch { rewindable } = start {
        line.option("-incoming", "defer")
            .option("-global", "migration.send-configuration=off");
        if *rewindable {
            line.option("-chardev", format!("socket,id=code,fd={}", fd::CODE))
                .option("-object", "qtest,id=code0,chardev=code,log=none");
        }
    }
}

/// Machine protocol, console (the last 64 KiB, in memory: a guest cannot fill a disk with it), control
/// channel.
fn channels(line: &mut Line) {
    line.option(
        "-chardev",
        format!("socket,id=qmp,fd={},server=on,wait=off", fd::QMP),
    )
    .option("-mon", "chardev=qmp,mode=control")
    .option("-chardev", "ringbuf,id=console,size=65536")
    .option("-serial", "chardev:console")
    .option(
        "-chardev",
        format!("socket,id=control,fd={},server=on,wait=off", fd::CONTROL),
    )
    .option("-device", "virtio-serial-pci,id=serial0,addr=0x3")
    .option(
        "-device",
        format!(
            "virtserialport,bus=serial0.0,nr=1,id=control0,chardev=control,name={}",
            colibri_guest_protocol::CONTROL_PORT_NAME
        ),
    );
}

fn disks(line: &mut Line, start: &Start<'_>) {
    line.descriptor(fd::ROOT).descriptor(fd::OVERLAY);
    let root = json!({
        "driver": "raw", "node-name": "root", "read-only": true,
        "file": { "driver": "file", "filename": set(fd::ROOT), "read-only": true },
    });
    let below = match start {
        Start::Boot { .. } => root,
        Start::Launch { .. } => {
            line.descriptor(fd::FROZEN).descriptor(fd::DEVICES_IN);
            json!({
                "driver": "qcow2", "node-name": FROZEN_NODE, "read-only": true,
                "file": { "driver": "file", "filename": set(fd::FROZEN), "read-only": true },
                "backing": root,
            })
        }
    };
    let top = json!({
        "driver": "raw", "node-name": TOP_NODE, "discard": "unmap",
        "file": {
            "driver": "qcow2", "node-name": "overlay", "discard": "unmap",
            "file": { "driver": "file", "filename": set(fd::OVERLAY), "discard": "unmap" },
            "backing": below,
        },
    });
    line.option("-blockdev", top.to_string()).option(
        "-device",
        format!("virtio-blk-pci,id=disk0,drive={TOP_NODE},addr=0x2"),
    );
}

/// The name under which QEMU opens a descriptor given with `-add-fd`.
pub(super) fn set(descriptor: i32) -> String {
    format!("/dev/fdset/{descriptor}")
}

/// The path by which a process opens the file behind a descriptor anew. The file's mode decides
/// whether it may; the directories that lead to it do not matter.
pub(super) fn reopened(descriptor: i32) -> String {
    format!("/proc/self/fd/{descriptor}")
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn option(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.push(name.to_owned());
        self.0.push(value.into());
        self
    }

    fn flags(&mut self, names: &[&str]) -> &mut Self {
        self.0.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    fn descriptor(&mut self, number: i32) -> &mut Self {
        self.option("-add-fd", format!("fd={number},set={number}"))
    }
}
