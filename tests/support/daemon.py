"""A `colibri serve` of the test's own: started on free ports and an empty data directory, stopped
with everything that it made."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
PROGRAM = Path(os.environ.get("COLIBRI", TARGET / "release" / "colibri"))
GUEST_DIRECTORY = REPOSITORY / "target" / "guest"
READY_SECONDS = 120


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Daemon:
    """One data directory, and the process that serves it."""

    def __init__(self, directory, settings=""):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data = self.directory / "data"
        self.log = self.directory / "colibri.log"
        self.api_port, self.ingress_port = free_port(), free_port()
        self.configuration = self.directory / "colibri.toml"
        self.configuration.write_text(settings)
        self.process = None

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def ca(self):
        return str(self.data / "ca.pem")

    @property
    def environment(self):
        """What a user sets to drive it with any AWS client."""
        return {
            # The AWS CLI of the environment that runs this, not an older one of the system's.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AWS_SHARED_CREDENTIALS_FILE": str(self.data / "credentials"),
            "AWS_CONFIG_FILE": str(self.data / "config"),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_PAGER": "",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(PROGRAM),
                    "serve",
                    "--config",
                    str(self.configuration),
                    "--data-dir",
                    str(self.data),
                    "--guest-dir",
                    str(GUEST_DIRECTORY),
                    "--api-listen",
                    f"127.0.0.1:{self.api_port}",
                    "--ingress-listen",
                    f"127.0.0.1:{self.ingress_port}",
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        # A daemon that hangs at its start is ended, which ends the wait for its line.
        watchdog = threading.Timer(READY_SECONDS, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        expected = rf"ready api=http://127\.0\.0\.1:{self.api_port} ingress=https://\S+ data=\S+"
        if not re.fullmatch(expected, line.strip()):
            self.process.kill()
            raise AssertionError(f"colibri serve said {line!r} instead of ready:\n{self.tail()}")
        return self

    def iam(self, *arguments, text=None, code=0):
        """`colibri iam` beside it; what that said."""
        command = [str(PROGRAM), "iam", "--data-dir", str(self.data), *map(str, arguments)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def crash(self):
        """SIGKILL: nothing of the daemon gets to say goodbye."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise AssertionError(f"colibri serve did not stop:\n{self.tail()}")
            pool = self.machines("pool")
            assert not pool, f"machines of the pool outlived an orderly stop: {pool}\n{self.tail()}"

    # What it has made on the host, as the host tells it.

    def machines(self, below="microvms"):
        """Process ids of its VMMs: those whose working directory lies below this part of the data
        directory. Machines that wait in the pool lie below `pool`, and are nobody's."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                directory = os.readlink(process / "cwd")
                program = (process / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue
            if directory.startswith(f"{self.data / below}/") and b"qemu-system" in program:
                found.append(int(process.name))
        return found

    def leftovers(self):
        """Everything per MicroVM that must be gone when the last one is terminated."""
        microvms = self.data / "microvms"
        return {
            "machines": self.machines(),
            "directories": sorted(p.name for p in microvms.iterdir()) if microvms.is_dir() else [],
        }
