"""How fast the control plane answers: GetMicrovm and ListMicrovms of Colibri, every signature verified,
beside GetFunction and ListFunctions of moto (a Python emulator of AWS services, which verifies none), by
one load generator in one run. The machines behind Colibri's API are simulated: neither of the calls
touches one.

Reads the simulated server, the load generator and moto's server; writes target/bench-api.json."""

import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import boto3

REPOSITORY = Path(__file__).resolve().parent.parent
THINGS = 20
SECONDS = int(os.environ.get("BENCH_SECONDS", "10"))
ROUNDS = 3
CONNECTIONS = 16
READY_SECONDS = 60
AIM = 10
REGION = "us-east-1"
ACCOUNT = "000000000000"
KEY = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
IMAGE = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:load"


def client(service, endpoint, **key):
    return boto3.client(service, endpoint_url=f"http://{endpoint}", region_name=REGION, **key)


@contextlib.contextmanager
def running(command, log):
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def colibri(program, directory):
    """Yields the endpoint, the key, and the two paths that are asked for."""
    data = directory / "colibri"
    with running([program, data, "roomy"], directory / "colibri.log") as process:
        words = process.stdout.readline().split()
        if words[:1] != ["ready"]:
            sys.exit((directory / "colibri.log").read_text())
        endpoint = words[1].removeprefix("api=http://")
        key = root_key(data / "credentials")
        microvms = fill_colibri(endpoint, key)
        yield endpoint, key, {
            "get": ("GetMicrovm", f"/2025-09-09/microvms/{microvms[0]}"),
            "list": ("ListMicrovms", "/2025-09-09/microvms"),
        }


def root_key(path):
    lines = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in lines}


def fill_colibri(endpoint, key):
    s3, microvms = client("s3", endpoint, **key), client("lambda-microvms", endpoint, **key)
    s3.create_bucket(Bucket="load")
    s3.put_object(Bucket="load", Key="app.zip", Body=archive("Dockerfile", "FROM scratch\n"))
    microvms.create_microvm_image(
        name="load",
        baseImageArn=f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
        buildRoleArn=f"arn:aws:iam::{ACCOUNT}:role/build",
        codeArtifact={"uri": "s3://load/app.zip"},
    )
    wait(lambda: microvms.get_microvm_image(imageIdentifier=IMAGE)["state"] == "CREATED")
    return [microvms.run_microvm(imageIdentifier=IMAGE)["microvmId"] for _ in range(THINGS)]


@contextlib.contextmanager
def moto(program, directory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"127.0.0.1:{port}"
    # moto logs every request to the standard error, as its users have it.
    with running([program, "-H", "127.0.0.1", "-p", str(port)], directory / "moto.log"):
        wait(lambda: listens(port))
        fill_moto(endpoint)
        yield endpoint, KEY, {
            "get": ("GetFunction", "/2015-03-31/functions/load-0"),
            "list": ("ListFunctions", "/2015-03-31/functions"),
        }


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def fill_moto(endpoint):
    role = client("iam", endpoint, **KEY).create_role(RoleName="load", AssumeRolePolicyDocument="{}")
    functions = client("lambda", endpoint, **KEY)
    for number in range(THINGS):
        functions.create_function(
            FunctionName=f"load-{number}",
            Runtime="python3.12",
            Role=role["Role"]["Arn"],
            Handler="main.handler",
            Code={"ZipFile": archive("main.py", "def handler(event, context): pass\n")},
        )


def archive(name, text):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as zipped:
        zipped.writestr(name, text)
    return held.getvalue()


def wait(condition):
    end = time.monotonic() + READY_SECONDS
    while not condition():
        if time.monotonic() > end:
            sys.exit("a server was not ready in time")
        time.sleep(0.05)


def load(generator, endpoint, key, path, seconds=SECONDS):
    environment = {name.upper(): value for name, value in key.items() if name.startswith("aws_")}
    command = [generator, "--endpoint", endpoint, "--service", "lambda", "--path", path]
    command += ["--connections", str(CONNECTIONS), "--seconds", str(seconds)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds * 2 + 60)


def measure(generator, endpoint, key, path):
    ran = load(generator, endpoint, key, path)
    if ran.returncode:
        sys.exit(f"{path} of {endpoint}: {ran.stderr}")
    return json.loads(ran.stdout)


def assert_verifies(generator, endpoint, key, path):
    """A server that let another secret in would be measured for work that it does not do."""
    wrong = load(generator, endpoint, {**key, "aws_secret_access_key": "x" * 40}, path, seconds=1)
    if wrong.returncode == 0 or "403" not in wrong.stderr:
        sys.exit(f"{endpoint} answered a request that was signed with a wrong secret: {wrong.stdout}{wrong.stderr}")


def measured(generator, servers):
    """Both servers take turns, so that what else the machine does falls on both."""
    runs = []
    for turn in range(ROUNDS):
        for kind in ("get", "list"):
            for name, (endpoint, key, calls) in servers.items():
                operation, path = calls[kind]
                seen = measure(generator, endpoint, key, path)
                runs.append({"server": name, "kind": kind, "operation": operation, "round": turn, **seen})
                rate = seen["perSecond"]
                print(f"round {turn + 1}: {name} {operation}: {rate:.0f}/s", file=sys.stderr, flush=True)
    return runs


def row(runs, server, kind):
    chosen = [run for run in runs if (run["server"], run["kind"]) == (server, kind)]
    middle = {field: statistics.median(run[field] for run in chosen) for field in ("perSecond", "p50Millis", "p99Millis")}
    return {"operation": chosen[0]["operation"], "bytesPerAnswer": chosen[0]["bytesPerAnswer"], **middle}


def report(runs):
    ratios = {}
    print(f"\n{'':10}{'operation':16}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'bytes':>8}")
    for kind in ("get", "list"):
        rows = {server: row(runs, server, kind) for server in ("colibri", "moto")}
        for server, r in rows.items():
            print(
                f"{server:10}{r['operation']:16}{r['perSecond']:12.0f}{r['p50Millis']:10.2f}"
                f"{r['p99Millis']:10.2f}{r['bytesPerAnswer']:8}"
            )
        ratios[kind] = rows["colibri"]["perSecond"] / rows["moto"]["perSecond"]
        print(f"ratio of requests/s: {ratios[kind]:.1f} (aim: at least {AIM})\n")
    return ratios


def main():
    simulated, generator, moto_server = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="colibri-bench-api-") as name:
        directory = Path(name)
        with colibri(simulated, directory) as ours, moto(moto_server, directory) as theirs:
            endpoint, key, calls = ours
            assert_verifies(generator, endpoint, key, calls["get"][1])
            runs = measured(generator, {"colibri": ours, "moto": theirs})
    ratios = report(runs)
    load_average = os.getloadavg()
    (REPOSITORY / "target" / "bench-api.json").write_text(
        json.dumps({"connections": CONNECTIONS, "things": THINGS, "loadAverage": load_average, "runs": runs, "ratios": ratios}, indent=1)
    )
    print(f"load average of the last minute: {load_average[0]:.1f}, most of it this benchmark's own where nothing else runs")
    return 0 if min(ratios.values()) >= AIM else 1


sys.exit(main())
