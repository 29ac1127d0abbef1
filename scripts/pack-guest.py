"""Packs the guest's initramfs and describes it in guest.json.

The initramfs holds the agent as /init, the modules that it loads at boot as /modules/*.ko with their
order in /modules/load, and further ones under /modules/lib. Each line of /modules/lib/index names a
module and then the files to load for it, in order. Not for the image's root file system.

Usage: pack-guest.py --architecture A --directory DIR --agent FILE --agent-version V --modules FILE
"""

import argparse
import gzip
import hashlib
import json
import lzma
import os
import re
import stat
import subprocess
import sys
from pathlib import Path


def undecorated(name):
    """A module's name as the kernel has it: `virtio-rng` and `virtio_rng` are one."""
    return name.replace("-", "_")


class Modules:
    """The modules of one kernel, by name."""

    def __init__(self, directory):
        self.files = {
            undecorated(path.name.split(".ko")[0]): path
            for path in sorted(directory.rglob("*.ko*"))
        }
        builtin = (directory / "modules.builtin").read_text().split()
        self.builtin = {undecorated(Path(line).stem) for line in builtin}

    def content(self, name):
        """The module itself, decompressed: the kernel's own decompressor is not always built in."""
        path = self.files[name]
        data = path.read_bytes()
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".gz":
            return gzip.decompress(data)
        if path.suffix == ".zst":
            return subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout
        return data

    def needs(self, name):
        """What a module says it depends on: the `depends` and `softdep` of its .modinfo.

        Read from the module because the package holds no modules.dep; that file is written when a
        kernel is installed.
        """
        data = self.content(name)
        found = re.search(rb"\0depends=([^\0]*)\0", data)
        names = found[1].decode().split(",") if found else []
        for soft in re.findall(rb"\0softdep=pre: ([^\0:]*)\0", data):
            names += soft.decode().split()
        return [undecorated(each) for each in names if each]

    def load_order(self, name, before=()):
        """The modules to load for `name`, dependencies first, those in `before` and built-in ones left out."""
        order = []

        def visit(each):
            if each in before or each in order or each in self.builtin or each not in self.files:
                return
            for dependency in self.needs(each):
                visit(dependency)
            order.append(each)

        visit(undecorated(name))
        return order


class Archive:
    """A cpio archive in the kernel's `newc` format (Documentation/driver-api/early-userspace/buffer-format.rst).

    Times, owners and numbers are fixed, so that equal input gives an equal archive.
    """

    def __init__(self):
        self.parts = []
        self.entries = 0

    def add(self, name, mode, data=b"", device=(0, 0)):
        self.entries += 1
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self.entries, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self.parts.append(padded(header + path))
        self.parts.append(padded(data))

    def directory(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def finish(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def padded(data):
    """Padded to the format's 4 bytes."""
    return data + b"\0" * (-len(data) % 4)


def wanted_modules(listing):
    """The `(when, name)` lines of the module list."""
    for line in listing.read_text().splitlines():
        words = line.split("#")[0].split()
        if words:
            yield words[0], words[1]


def pack(agent, modules, listing):
    """The initramfs, and how many modules are in it for boot and for later."""
    archive = Archive()
    # Mount points of the agent's; /dev/console must exist before devtmpfs is there.
    for name in ("dev", "proc", "sys", "run", "tmp", "modules", "modules/lib"):
        archive.directory(name)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("init", stat.S_IFREG | 0o755, agent)

    boot, later, index = [], [], []
    for when, name in wanted_modules(listing):
        if when == "boot":
            boot += modules.load_order(name, before=boot)
        elif order := modules.load_order(name, before=boot):
            later += [each for each in order if each not in later]
            index.append(" ".join([undecorated(name), *(f"{each}.ko" for each in order)]))
    for each in boot:
        archive.add(f"modules/{each}.ko", stat.S_IFREG | 0o644, modules.content(each))
    for each in later:
        archive.add(f"modules/lib/{each}.ko", stat.S_IFREG | 0o644, modules.content(each))
    archive.add("modules/load", stat.S_IFREG | 0o644, lines(f"{each}.ko" for each in boot))
    archive.add("modules/lib/index", stat.S_IFREG | 0o644, lines(index))
    return archive.finish(), len(boot), len(later)


def lines(items):
    return "".join(f"{item}\n" for item in items).encode()


def replace_if_changed(path, data):
    """Writes a file whole or not at all; an equal one keeps its time."""
    if path.exists() and path.read_bytes() == data:
        return
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", required=True)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--agent", required=True, type=Path)
    parser.add_argument("--agent-version", required=True)
    parser.add_argument("--modules", required=True, type=Path)
    return parser.parse_args()


def main():
    options = arguments()
    directory = options.directory
    agent = options.agent.read_bytes()
    # PT_INTERP in the program headers would name a loader that the initramfs does not have.
    if b"/ld-linux" in agent[:4096] or b"/ld-musl" in agent[:4096]:
        sys.exit(f"error: {options.agent} is not statically linked and cannot be the guest's /init")
    # The initramfs is not compressed: unpacking costs more under emulation than reading 5 MiB.
    initramfs, boot, later = pack(agent, Modules(directory / "kernel/modules"), options.modules)
    replace_if_changed(directory / "initramfs.img", initramfs)
    description = {
        "format": 1,
        "architecture": options.architecture,
        "kernel_version": (directory / "kernel/release").read_text().strip(),
        "kernel_package": (directory / "kernel/package").read_text().strip(),
        "kernel_file": "vmlinux",
        "kernel_sha256": sha256(directory / "vmlinux"),
        "initramfs_file": "initramfs.img",
        "initramfs_sha256": sha256(directory / "initramfs.img"),
        "agent_version": options.agent_version,
        "agent_sha256": hashlib.sha256(agent).hexdigest(),
        "boot_modules": boot,
        "later_modules": later,
    }
    replace_if_changed(directory / "guest.json", (json.dumps(description, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
