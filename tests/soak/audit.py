"""What a daemon holds on the host, as the host tells it and not the daemon: what the audit at the end of
the soak compares with the start. Only what is this daemon's: others may work beside it."""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
NAMESPACES = Path("/run/netns")
# Kept on purpose: logs have bounds of their own, and the store holds ended MicroVMs for a day.
GROWS = ("logs", "state.db", "state.db-wal", "state.db-shm")


def processes(data):
    """Processes with a working directory, an argument or an open file below the data directory."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            links = [process / "cwd", *(process / "fd").iterdir()]
            holds = any(_link(link).startswith(f"{data}/") for link in links)
            if holds or any(word.decode(errors="replace").startswith(str(data)) for word in words):
                found[int(process.name)] = Path(words[0].decode(errors="replace")).name
        except OSError:
            continue
    return found


def _link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


def mark(machines):
    """The eight digits in the names of everything that this daemon makes in the kernel's networking,
    read off the namespace that one of its machines is in."""
    inodes = {os.stat(f"/proc/{pid}/ns/net").st_ino for pid in machines}
    for namespace in NAMESPACES.glob("colibri-*"):
        if namespace.stat().st_ino in inodes:
            return namespace.name.split("-")[1]
    raise AssertionError(f"no namespace of {machines} in {NAMESPACES}")


def networking(mark):
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    return {
        "namespaces": sorted(p.name for p in NAMESPACES.glob(f"colibri-{mark}-*")),
        "links": sorted(p.name for p in Path("/sys/class/net").glob(f"cb{mark}*")),
        "nft tables": [line for line in tables.splitlines() if mark in line],
    }


def cgroups(ids):
    """Those of these machines and builds."""
    return sorted(str(p) for p in CGROUPS.rglob("*") if p.name in ids and p.is_dir())


def mounts(data):
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(data) in line]


def descriptors(pid):
    """Open files of a process by what they are."""
    return Counter(_kind(_link(descriptor)) for descriptor in Path(f"/proc/{pid}/fd").iterdir())


def _kind(target):
    if target.startswith(("socket:", "pipe:")):
        return target.split(":")[0]
    # Which slots wait ready is chance; how many is not.
    return re.sub(r"\d+$", "*", target) if target.startswith(str(NAMESPACES)) else target


def bytes_on_disk(data):
    """Allocated bytes by the first name below the data directory."""
    sizes = {}
    for entry in sorted(Path(data).iterdir()):
        paths = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
        sizes[entry.name] = sum(_allocated(path) for path in paths)
    return sizes


def _allocated(path):
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return 0
    return found.st_blocks * 512


def kept(sizes):
    """Without what grows on purpose."""
    return {name: size for name, size in sizes.items() if name not in GROWS}
