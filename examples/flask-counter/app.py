"""A web application that keeps state everywhere a MicroVM must preserve it.

In memory (a counter), in another process (the ticker), in a file (the notes), and in what the
lifecycle hooks told it (the identity). Served on PORT; the hooks are on HOOKS_PORT, which no endpoint
token needs to cover. Not an example of a production server.
"""

import http.client
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from flask import Flask, jsonify, request
from werkzeug.serving import make_server

PORT = int(os.environ.get("PORT", "8080"))
HOOKS_PORT = int(os.environ.get("HOOKS_PORT", "9000"))
NOTES = Path(os.environ.get("NOTES_FILE", "/var/tmp/notes.txt"))
HOOKS_PATH = "/aws/lambda-microvms/runtime/v1"
NOTE_MAX_BYTES = 64 * 1024
MAX_STEP = 1000
# The hook of a validation may take longer, but a page that needs this long is broken.
WARM_UP_SECONDS = 20


class Counter:
    """The number that every visit raises."""

    def __init__(self):
        self._lock = threading.Lock()
        self._value = 0

    def add(self, step):
        with self._lock:
            self._value += step
            return self._value


class Ticker:
    """The background process, and the pipe to it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("ticker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self):
        return self._process.pid

    def ticks(self):
        with self._lock:
            self._process.stdin.write("?\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


class Identity:
    """What the hooks have told: which MicroVM this is, and what has happened to it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._microvm_id = None
        self._run_hook_payload = None
        self._calls = {}

    def called(self, hook):
        with self._lock:
            self._calls[hook] = self._calls.get(hook, 0) + 1

    def run(self, body):
        with self._lock:
            self._microvm_id = body.get("microvmId")
            self._run_hook_payload = body.get("runHookPayload")

    def as_json(self):
        with self._lock:
            return {
                "microvmId": self._microvm_id,
                "runHookPayload": self._run_hook_payload,
                "hooks": dict(self._calls),
            }


app = Flask("flask-counter")
hooks = Flask("flask-counter-hooks")
app.config["MAX_CONTENT_LENGTH"] = NOTE_MAX_BYTES
counter = Counter()
identity = Identity()
ticker = Ticker()


@app.get("/")
def visit():
    """Raises the counter, by `step` where one is given; a step of 0 only looks."""
    step = request.args.get("step", default=1, type=int)
    if not 0 <= step <= MAX_STEP:
        return jsonify(error=f"step must be between 0 and {MAX_STEP}"), 400
    return jsonify(
        counter=counter.add(step),
        hostname=socket.gethostname(),
        pid=os.getpid(),
        uptime=round(time.monotonic(), 3),
        time=time.time(),
    )


@app.get("/background")
def background():
    """How far the other process has counted, in tenths of a second."""
    return jsonify(pid=ticker.pid, ticks=ticker.ticks())


@app.get("/file")
def read_notes():
    notes = NOTES.read_text().splitlines() if NOTES.exists() else []
    return jsonify(path=str(NOTES), lines=notes)


@app.post("/file")
def append_note():
    """Appends the request's body as a line, on disk before it is answered."""
    with NOTES.open("a") as file:
        file.write(request.get_data(as_text=True).replace("\n", " ") + "\n")
        file.flush()
        os.fsync(file.fileno())
    return read_notes()


@app.get("/identity")
def who():
    """Who this machine is; `random` and the machine's own names must differ between clones."""
    return jsonify(
        **identity.as_json(),
        hostname=socket.gethostname(),
        machineId=read_or_none("/etc/machine-id"),
        random=secrets.token_hex(16),
    )


def read_or_none(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


@hooks.post(f"{HOOKS_PATH}/ready")
def ready():
    """Asked during the image's build, until it is answered 200: then the snapshot is taken."""
    identity.called("ready")
    return accepted() if answers("/?step=0") else (jsonify(error="not up yet"), 503)


@hooks.post(f"{HOOKS_PATH}/validate")
def validate():
    """Asked in a restored machine, to run what real requests will run. Leaves no trace: a step of 0."""
    pages = ("/?step=0", "/background", "/file", "/identity")
    return accepted() if all(answers(page) for page in pages) else (jsonify(error="a page failed"), 500)


@hooks.post(f"{HOOKS_PATH}/run")
def run():
    """The first thing that a new MicroVM hears: its identity, and the caller's payload."""
    identity.called("run")
    identity.run(request.get_json(silent=True) or {})
    return accepted()


@hooks.post(f"{HOOKS_PATH}/resume")
def resume():
    identity.called("resume")
    return accepted()


@hooks.post(f"{HOOKS_PATH}/suspend")
def suspend():
    identity.called("suspend")
    return accepted()


@hooks.post(f"{HOOKS_PATH}/terminate")
def terminate():
    identity.called("terminate")
    return accepted()


def accepted():
    return jsonify(status="ok")


def answers(page):
    """True where the application itself, asked over its own port, answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=WARM_UP_SECONDS)
    try:
        connection.request("GET", page)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main():
    # HTTP/1.0 connections, which end with their answer: a connection kept open over a suspend is
    # dead to one side and alive to the other.
    hooks_server = make_server("0.0.0.0", HOOKS_PORT, hooks, threaded=True)
    threading.Thread(target=hooks_server.serve_forever, daemon=True).start()
    print(f"flask-counter: application on port {PORT}, hooks on port {HOOKS_PORT}")
    make_server("0.0.0.0", PORT, app, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
