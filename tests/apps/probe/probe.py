"""What the end-to-end tests look at from inside a guest: an HTTP server without dependencies.

It does what it is asked: reports who it is, connects to addresses, ends itself, echoes WebSocket
frames, streams, and answers lifecycle hooks as its run payload or environment says.
"""

import base64
import errno
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

HOOKS = "/aws/lambda-microvms/runtime/v1/"
READY_AFTER = int(os.environ.get("READY_AFTER", "0"))
NEVER_READY = os.environ.get("NEVER_READY")
EXIT_AT_ONCE = os.environ.get("EXIT_AT_ONCE")

state = {"visits": 0, "hooks": {}, "run": None, "slept": None, "refuse": {}}
lock = threading.Lock()
integrity = None
integrity_lock = threading.Lock()


def start_integrity():
    global integrity
    with integrity_lock:
        if integrity is None:
            integrity = subprocess.Popen(
                [sys.executable, "/app/integrity.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        integrity.stdin.write("\n")
        integrity.stdin.flush()
        memory, file, faults = integrity.stdout.readline().strip().split(" ", 2)
        return {"memory": int(memory), "file": int(file), "faults": [] if faults == "-" else faults.split(";")}


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def identity():
    status = dict(line.split(":", 1) for line in read("/proc/self/status").splitlines() if ":" in line)
    return {
        "hostname": socket.gethostname(),
        "machineId": read("/etc/machine-id"),
        "bootId": read("/proc/sys/kernel/random/boot_id"),
        "random": os.urandom(16).hex(),
        "time": time.time(),
        "monotonic": time.monotonic(),
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "uid": os.getuid(),
        "cwd": os.getcwd(),
        "capEff": status["CapEff"].strip(),
        "environment": dict(os.environ),
        "memTotalKiB": int(read("/proc/meminfo").split()[1]),
        "cpus": os.cpu_count(),
        "mounts": read("/proc/mounts").splitlines(),
        "devices": sorted(os.listdir("/dev")),
    }


def connect(host, port, timeout=3):
    """How an outbound connection ends: the text is what the tests look for."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as stream:
            stream.sendall(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
            return {"outcome": "connected", "received": stream.recv(200).decode("latin-1")}
    except OSError as error:
        return {"outcome": "failed", "error": str(error)}


def ask_metadata(method, path, headers, body=None):
    connection = http.client.HTTPConnection("169.254.169.254", timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return {"status": answer.status, "body": answer.read().decode()}


def metadata(method, path, body=None):
    """What the metadata address answers, asked as an SDK asks: with a token."""
    token = ask_metadata("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
    return ask_metadata(method, path, {"X-aws-ec2-metadata-token": token["body"]}, body)


def hold(host, port):
    """Keeps a connection to the outside that waits for bytes, and one over the loopback."""
    outside = socket.create_connection((host, port), timeout=10)
    outside.settimeout(None)
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    held = {"outside": "waiting", "near": near, "far": far}
    state["held"] = held

    def wait():
        try:
            held["outside"] = f"received {outside.recv(100)!r}"
        except OSError as error:
            held["outside"] = errno.errorcode[error.errno]

    threading.Thread(target=wait, daemon=True).start()
    return {"outside": "waiting"}


def held():
    """How both are by now."""
    held = state["held"]
    held["near"].sendall(b"still here")
    return {"outside": held["outside"], "loopback": held["far"].recv(100).decode()}


def compute(seconds):
    """Computes in the background, and crosses no endpoint."""

    def work():
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            hashlib.sha256(bytes(4096)).digest()

    threading.Thread(target=work, daemon=True).start()
    return {}


def resolve(name):
    try:
        return {"outcome": "resolved", "addresses": sorted({a[4][0] for a in socket.getaddrinfo(name, None)})}
    except OSError as error:
        return {"outcome": "failed", "error": str(error)}


def reach_control_port():
    """What a tenant would try first: make the control port's device node and open it."""
    attempts = {}
    for directory in ("/dev", "/tmp", "/app"):
        path = f"{directory}/stolen-port"
        try:
            # virtio-ports have a dynamic major; try those that the kernel lists.
            majors = [int(l.split()[0]) for l in read("/proc/devices").splitlines() if "virtio-portsdev" in l]
            os.mknod(path, 0o600 | 0o020000, os.makedev(majors[0] if majors else 247, 1))
            with open(path, "rb", buffering=0):
                attempts[directory] = "opened"
        except OSError as error:
            attempts[directory] = error.strerror
    return attempts


class Probe(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *arguments):
        print(f"probe: {format % arguments}")

    def answer(self, body, status=200, headers=()):
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def do_GET(self):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/":
            with lock:
                state["visits"] += 1
                self.answer({"visits": state["visits"], "hooks": state["hooks"], "run": state["run"], "slept": state["slept"]})
        elif url.path == "/identity":
            self.answer(identity())
        elif url.path == "/integrity":
            self.answer(start_integrity())
        elif url.path == "/headers":
            peer = self.client_address[0]
            self.answer({"headers": [[n, v] for n, v in self.headers.items()], "path": self.path, "peer": peer})
        elif url.path == "/connect":
            self.answer(connect(query["host"], int(query["port"])))
        elif url.path == "/metadata":
            ask = metadata if query.get("token", "yes") == "yes" else lambda m, p, b: ask_metadata(m, p, {}, b)
            # Kept, for a suspension that it asks for may cut this connection.
            state["metadata"] = ask(query["method"], query["path"], query.get("body"))
            self.answer(state["metadata"])
        elif url.path == "/metadata-said":
            self.answer(state["metadata"])
        elif url.path == "/hold":
            self.answer(hold(query["host"], int(query["port"])))
        elif url.path == "/compute":
            self.answer(compute(int(query["seconds"])))
        elif url.path == "/held":
            self.answer(held())
        elif url.path == "/resolve":
            self.answer(resolve(query["name"]))
        elif url.path == "/control-port":
            self.answer(reach_control_port())
        elif url.path == "/dirty":
            state["dirty"] = os.urandom(int(query["mib"]) * 1024 * 1024)
            self.answer({"bytes": len(state["dirty"])})
        elif url.path == "/refuse":
            state["refuse"][query["hook"]] = int(query["status"])
            self.answer(state["refuse"])
        elif url.path == "/exit":
            self.answer({})
            threading.Timer(0.05, os._exit, [int(query["code"])]).start()
        elif url.path == "/stream":
            self.stream(int(query["count"]), float(query.get("pause", "0")))
        elif url.path == "/websocket":
            self.websocket()
        else:
            self.answer({"error": "no such page"}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith(HOOKS):
            self.hook(self.path.removeprefix(HOOKS), body)
        elif self.path == "/echo":
            digest = hashlib.sha256(body).hexdigest()
            self.answer({"bytes": len(body), "sha256": digest})
        else:
            self.answer({"error": "no such page"}, 404)

    def hook(self, name, body):
        with lock:
            calls = state["hooks"][name] = state["hooks"].get(name, 0) + 1
            if name == "resume":
                state["slept"] = self.headers.get("X-Colibri-Slept-Seconds")
            if name == "run":
                state["run"] = json.loads(body)
                payload = json.loads(state["run"].get("runHookPayload") or "{}")
                state["refuse"].update(payload.get("refuse", {}))
        if name == "ready" and (NEVER_READY or calls <= READY_AFTER):
            self.answer({}, 503, [("Connection", "close")])
            return
        self.answer({}, state["refuse"].get(name, 200), [("Connection", "close")])

    def stream(self, count, pause):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(count):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.wfile.flush()
            time.sleep(pause)
        self.close_connection = True

    def websocket(self):
        """Echoes text and binary messages of up to 64 KiB."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        offered = [p.strip() for p in self.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if "chat" in offered:
            self.send_header("Sec-WebSocket-Protocol", "chat")
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            opcode, length = head[0] & 15, head[1] & 127
            if length == 126:
                length = int.from_bytes(self.rfile.read(2), "big")
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(length)))
            size = bytes([length]) if length < 126 else bytes([126]) + length.to_bytes(2, "big")
            self.wfile.write(bytes([0x80 | opcode]) + size + data)
            self.wfile.flush()
            if opcode == 8:
                return


def main():
    if EXIT_AT_ONCE:
        print("probe: told to exit at once", file=sys.stderr)
        sys.exit(int(EXIT_AT_ONCE))
    print("probe: starting")
    loopback = ThreadingHTTPServer(("127.0.0.1", 8081), Probe)
    threading.Thread(target=loopback.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("0.0.0.0", 8080), Probe).serve_forever()


if __name__ == "__main__":
    main()
