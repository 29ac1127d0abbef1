"""QEMU's own way, beside Colibri's: `migrate` of a running guest into a file, and back out of it.

A MicroVM's VMM is taken over after its daemon was killed: the same process, the same guest, with everything
in its memory. Then it is saved, ended, started again with the same command line, and asked.
"""

import array
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

FORWARDER = ("169.254.100.2", 1)
PIDFD_GETFD = 438
BOUND_SECONDS = 120
# Numbers of the descriptors in QEMU's command line (crates/hypervisor/src/qemu/arguments.rs).
QMP, CONTROL, TAP, ROOT, FROZEN, OVERLAY, DEVICES_OUT, DEVICES_IN, MEMORY = range(10, 19)
KVM = 21

libc = ctypes.CDLL(None, use_errno=True)


class Qmp:
    """QEMU's machine protocol over its socket."""

    def __init__(self, path):
        deadline = time.monotonic() + BOUND_SECONDS
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                # Of a QEMU that has ended nobody answers, though the socket is there.
                self.socket.settimeout(BOUND_SECONDS)
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)
        self.lines = self.socket.makefile()
        json.loads(self.lines.readline())
        self.execute("qmp_capabilities")

    def execute(self, command, descriptor=None, **arguments):
        text = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        along = []
        if descriptor is not None:
            along = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        self.socket.sendmsg([text], along)
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def wait(self, query, wanted):
        deadline = time.monotonic() + BOUND_SECONDS
        while (status := self.execute(query).get("status")) not in wanted:
            if status == "failed" or time.monotonic() > deadline:
                raise RuntimeError(f"{query} says {status}")
            time.sleep(0.002)


def duplicate(pid, number):
    """A descriptor of another process: the same open file."""
    process = os.pidfd_open(pid)
    found = libc.syscall(PIDFD_GETFD, process, number, 0)
    os.close(process)
    if found < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return found


def socket_in(namespace):
    """A socket of a network namespace: it stays there, wherever it is used."""
    made = []

    def make():
        if libc.setns(namespace, 0x40000000) == 0:
            made.append(socket.socket())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def ask(namespace, port):
    """The application's first answer, through the agent's forwarder."""
    connection = socket_in(namespace)
    connection.settimeout(BOUND_SECONDS)
    connection.connect(FORWARDER)
    connection.sendall(bytes([0xC0, 0x01]) + port.to_bytes(2, "big"))
    if connection.recv(1) != b"\0":
        raise RuntimeError("the forwarder refused")
    connection.sendall(b"GET /?step=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    if answer.status != 200:
        raise RuntimeError(f"the application answered {answer.status}")


def process_in(directory):
    """The QEMU that works in a directory."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            works_there = os.readlink(entry / "cwd") == str(directory.resolve())
            if works_there and b"qemu-system" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    raise RuntimeError(f"no QEMU works in {directory}")


def listener(path):
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def start_again(arguments, files, sockets, tap):
    """QEMU with the same command line, each file under its number."""
    given = {number: os.open(path, flags) for number, (path, flags) in files.items()}
    given |= {number: made.fileno() for number, made in sockets.items()} | {TAP: tap}
    # Out of the way of the numbers that they are to have.
    given = {number: (descriptor, 100 + number) for number, descriptor in given.items()}

    def place():
        for descriptor, far in given.values():
            os.dup2(descriptor, far)
        for number, (_, far) in given.items():
            os.dup2(far, number)
            os.set_inheritable(number, True)

    return subprocess.Popen(arguments, preexec_fn=place, close_fds=False, stdin=subprocess.DEVNULL)


def without_way_to_code(words):
    """A command line without what a process that is rewound is given for that: its other end is the daemon's."""
    options = {"socket,id=code,", "qtest,id=code0,"}
    drop = {at for at, word in enumerate(words) if any(word.startswith(option) for option in options)}
    return [word for at, word in enumerate(words) if at not in drop and at + 1 not in drop]


def measure(data, microvm, base, directory, port):
    """Kills nothing but the VMM of this MicroVM, whose daemon must be dead. Milliseconds and bytes."""
    own = data / "microvms" / microvm.id
    pid = process_in(own)
    words = [word.decode() for word in (Path(f"/proc/{pid}/cmdline").read_bytes()).split(b"\0")[:-1]]
    arguments = without_way_to_code(words)
    tap, namespace = duplicate(pid, TAP), os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    saved = directory / "qemu.migration"
    qmp = Qmp(str(own / "qmp.sock"))
    file = os.open(saved, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    begun = time.monotonic()
    qmp.execute("stop")
    qmp.execute("getfd", file, fdname="saved")
    # QEMU 10 fails an assertion over the description that it appends, where, as here, it was told to send no
    # configuration.
    qmp.execute("qom-set", path="/machine", property="suppress-vmdesc", value=True)
    # As fast as the file takes it; by default QEMU is polite to a network.
    qmp.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    qmp.execute("migrate", uri="fd:saved")
    qmp.wait("query-migrate", ["completed"])
    os.fsync(file)
    saved_ms = (time.monotonic() - begun) * 1000
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.01)
    files = {
        ROOT: (base / "root.raw", os.O_RDONLY),
        FROZEN: (base / "disk.qcow2", os.O_RDONLY),
        OVERLAY: (own / "disk.qcow2", os.O_RDWR),
        DEVICES_OUT: (directory / "devices", os.O_RDWR | os.O_CREAT),
        DEVICES_IN: (base / "devices.state", os.O_RDONLY),
        MEMORY: (base / "memory.base", os.O_RDONLY),
    }
    if any(word.startswith("kvm,device=") for word in arguments):
        files[KVM] = (Path("/dev/kvm"), os.O_RDWR)
    sockets = {QMP: listener(directory / "qmp"), CONTROL: listener(directory / "control")}
    begun = time.monotonic()
    process = start_again(arguments, files, sockets, tap)
    try:
        qmp = Qmp(str(directory / "qmp"))
        os.lseek(file, 0, os.SEEK_SET)
        qmp.execute("getfd", file, fdname="saved")
        qmp.execute("migrate-incoming", uri="fd:saved")
        qmp.wait("query-status", ["paused", "prelaunch", "running"])
        qmp.execute("cont")
        loaded_ms = (time.monotonic() - begun) * 1000
        ask(namespace, port)
        restored_ms = (time.monotonic() - begun) * 1000
    finally:
        process.kill()
        process.wait()
        os.close(tap)
    return {
        "save_ms": round(saved_ms, 1),
        "loaded_ms": round(loaded_ms, 1),
        "restore_ms": round(restored_ms, 1),
        "bytes": saved.stat().st_size,
    }
