"""Flies the whole walk for real and measures it: `make demo`.

Starts Colibri on an empty directory, uploads the Flask example with the AWS CLI, builds the image,
launches, suspends and wakes MicroVMs, and leaves the figures in target/demo.json. Every figure is a
client's: from the call sent to the answer received.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from support.clients import AUTO_RESUME, BASE_IMAGE, ROLE, Api, example, wait_for, zip_directory  # noqa: E402
from support.daemon import GUEST_DIRECTORY, PROGRAM, Daemon  # noqa: E402

LAUNCHES = 10
CLONES = 10
WARM_REQUESTS = 50
REPORT = REPOSITORY / "target" / "demo.json"
HOOKS = {
    "port": 9000,
    "microvmImageHooks": {
        "ready": "ENABLED",
        "readyTimeoutInSeconds": 120,
        "validate": "ENABLED",
        "validateTimeoutInSeconds": 120,
    },
    "microvmHooks": {"run": "ENABLED", "runTimeoutInSeconds": 30, "resume": "ENABLED", "resumeTimeoutInSeconds": 30},
}

started = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)


def milliseconds(since):
    return round((time.monotonic() - since) * 1000, 1)


def median(values):
    return round(statistics.median(values), 1)


class Walk:
    """The AWS CLI against one daemon, and what it is asked to do here."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.environment = {**os.environ, **daemon.environment}

    def aws(self, *arguments):
        say("$ aws " + " ".join(a if len(a) < 70 else a[:67] + "..." for a in arguments))
        run = subprocess.run(["aws", *arguments], env=self.environment, capture_output=True, text=True, timeout=300)
        if run.returncode != 0:
            sys.exit(f"aws {arguments[0]} {arguments[1]} failed:\n{run.stderr}\n{self.daemon.tail()}")
        return json.loads(run.stdout) if run.stdout.strip().startswith("{") else None

    def microvms(self, *arguments):
        return self.aws("lambda-microvms", *arguments)


def build_image(walk, api, directory):
    archive = directory / "flask-counter.zip"
    archive.write_bytes(zip_directory(example("flask-counter")))
    walk.aws("s3", "mb", "s3://apps")
    walk.aws("s3", "cp", "--quiet", str(archive), "s3://apps/flask-counter.zip")
    walk.microvms("list-managed-microvm-images")
    begun = time.monotonic()
    image = walk.microvms(
        *("create-microvm-image", "--name", "flask-counter", "--base-image-arn", BASE_IMAGE),
        *("--build-role-arn", ROLE, "--code-artifact", "uri=s3://apps/flask-counter.zip"),
        *("--resources", "minimumMemoryInMiB=512", "--hooks", json.dumps(HOOKS)),
    )["imageArn"]
    state = api.wait_for_image(image)["state"]
    if state != "CREATED":
        sys.exit(f"the image is {state}: {api.build_reason(image)}\n{walk.daemon.tail()}")
    took = milliseconds(begun)
    say(f"image built and frozen in {took / 1000:.1f} s")
    return image, took


def walk_once(walk, image):
    """The walk of the README: launch, ask, suspend, be woken by a request, resume, terminate."""
    policy = "maxIdleDurationSeconds=900,suspendedDurationSeconds=3600,autoResumeEnabled=true"
    ran = walk.microvms("run-microvm", "--image-identifier", image, "--idle-policy", policy)
    identifier, endpoint = ran["microvmId"], ran["endpoint"]
    token = walk.microvms(
        *("create-microvm-auth-token", "--microvm-identifier", identifier),
        *("--expiration-in-minutes", "30", "--allowed-ports", "port=8080"),
    )["authToken"]["X-aws-proxy-auth"]

    def ask(expected):
        command = ["curl", "-sS", "--fail-with-body", "--cacert", walk.daemon.ca, f"https://{endpoint}/"]
        run = subprocess.run(
            [*command, "-H", f"X-aws-proxy-auth: {token}"], capture_output=True, text=True, timeout=120
        )
        if run.returncode != 0:
            sys.exit(f"curl failed: {run.stderr} {run.stdout}\n{walk.daemon.tail()}")
        counter = json.loads(run.stdout)["counter"]
        say(f"$ curl --cacert DIR/ca.pem https://{endpoint}/  ->  counter {counter}")
        if counter != expected:
            sys.exit(f"the counter is {counter}, not {expected}: the state did not survive")

    def reaches(state):
        wait_for(state, lambda: walk.microvms("get-microvm", "--microvm-identifier", identifier)["state"] == state)

    ask(1)
    walk.microvms("suspend-microvm", "--microvm-identifier", identifier)
    reaches("SUSPENDED")
    say("a request to the suspended MicroVM wakes it:")
    ask(2)
    walk.microvms("suspend-microvm", "--microvm-identifier", identifier)
    reaches("SUSPENDED")
    walk.microvms("resume-microvm", "--microvm-identifier", identifier)
    ask(3)
    walk.microvms("terminate-microvm", "--microvm-identifier", identifier)
    reaches("TERMINATED")


def first_response(microvm):
    """The first answer of the application, on a connection of its own."""
    with microvm.client() as client:
        response = client.get("/")
        if response.status_code != 200:
            sys.exit(f"{microvm.id} answered {response.status_code}: {response.text}\n{microvm.api.daemon.tail()}")
        return response.json()["counter"]


def measure_launches(api, image):
    times = []
    for _ in range(LAUNCHES):
        begun = time.monotonic()
        microvm = api.run(image, wait=False, idlePolicy=AUTO_RESUME)
        first_response(microvm)
        times.append(milliseconds(begun))
        microvm.terminate()
    say(f"{LAUNCHES} launches, call to first answer: median {median(times)} ms  {times}")
    return times


def measure_sleep(api, image):
    """One MicroVM through ten sleeps; each wake is by traffic."""
    microvm = api.run(image, idlePolicy=AUTO_RESUME)
    counter = first_response(microvm)
    suspends, resumes, deltas = [], [], []
    for _ in range(LAUNCHES):
        begun = time.monotonic()
        microvm.suspend()
        suspends.append(milliseconds(begun))
        deltas.append((api.daemon.data / "microvms" / microvm.id / "memory.delta").stat().st_size)
        begun = time.monotonic()
        counter += 1
        if first_response(microvm) != counter:
            sys.exit("the counter was lost over a sleep")
        resumes.append(milliseconds(begun))
    with microvm.client() as client:
        warm = []
        for _ in range(WARM_REQUESTS):
            begun = time.monotonic()
            client.get("/")
            warm.append(milliseconds(begun))
    microvm.terminate()
    say(f"{LAUNCHES} suspends, call to SUSPENDED: median {median(suspends)} ms; delta {median(deltas) / 2**20:.1f} MiB")
    say(f"{LAUNCHES} wakes by traffic, request to answer: median {median(resumes)} ms  {resumes}")
    say(f"a request to a running MicroVM: median {median(warm)} ms")
    return {
        "suspend_ms": median(suspends),
        "suspend_delta_bytes": int(median(deltas)),
        "resume_to_first_response_ms": resumes,
        "warm_request_ms": median(warm),
    }


def memory_of(process):
    """Private and shared memory of a process, bytes (smaps_rollup)."""
    rollup = dict(
        line.split(":", 1) for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines() if ":" in line
    )

    def field(name):
        return int(rollup[name].split()[0]) * 1024

    return {
        "private": field("Private_Clean") + field("Private_Dirty"),
        "shared": field("Shared_Clean") + field("Shared_Dirty"),
    }


def measure_clones(api, image):
    """Ten idle clones at once: what each has for itself."""
    clones = [api.run(image, wait=False, idlePolicy=AUTO_RESUME) for _ in range(CLONES)]
    for clone in clones:
        first_response(clone)
    memory = [memory_of(process) for process in api.daemon.machines()]
    if len(memory) != CLONES:
        sys.exit(f"{len(memory)} VMMs run, not {CLONES}\n{api.daemon.tail()}")
    private = [entry["private"] for entry in memory]
    say(f"{len(memory)} clones at once: private memory of each {max(private) / 2**20:.1f} MiB at most")
    api.terminate_all()
    return {
        "count": len(memory),
        "private_bytes": private,
        "shared_bytes": [entry["shared"] for entry in memory],
    }


def measure_cold_boot(api, image):
    """The same image without its snapshot: kernel, agent, application, first answer."""
    version = api.microvms.get_microvm_image(imageIdentifier=image)["latestActiveImageVersion"]
    command = [str(PROGRAM), "cold-boot", "--data-dir", str(api.daemon.data), "--guest-dir", str(GUEST_DIRECTORY)]
    run = subprocess.run(
        [*command, "--image", "flask-counter", "--image-version", version, "--port", "8080"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if run.returncode != 0:
        sys.exit(f"the cold boot failed:\n{run.stderr}")
    took = json.loads(run.stdout)["first_response_ms"]
    say(f"cold boot of the same image to its first answer: {took / 1000:.1f} s")
    return took


def main():
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="colibri-demo-") as directory:
        directory = Path(directory)
        say("starting colibri serve")
        daemon = Daemon(directory).start()
        try:
            walk, api = Walk(daemon), Api(daemon)
            image, build_ms = build_image(walk, api, directory)
            build = api.microvms.list_microvm_image_builds(imageIdentifier=image, imageVersion="1.0")["items"][0]
            walk_once(walk, image)
            report = {
                "machine": {
                    "cores": os.cpu_count(),
                    "kernel": platform.release(),
                    "architecture": platform.machine(),
                    "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                    **json.loads(run_doctor(daemon)),
                },
                "image_build_ms": build_ms,
                "image_build": {key: str(value) for key, value in build.items()},
            }
            report["accelerator"] = report["machine"]["accelerator"]
            report["launch_to_first_response_ms"] = measure_launches(api, image)
            report |= measure_sleep(api, image)
            report["clones"] = measure_clones(api, image)
            report["cold_boot_to_first_response_ms"] = measure_cold_boot(api, image)
            wait_for("nothing left", lambda: daemon.leftovers() == {"machines": [], "directories": []})
        finally:
            daemon.stop()
    report["promises"] = promises(report)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    launch, wake = median(report["launch_to_first_response_ms"]), median(report["resume_to_first_response_ms"])
    cold = report["cold_boot_to_first_response_ms"]
    say(f"cold boot / launch = {cold / launch:.0f}, cold boot / wake = {cold / wake:.0f}; figures in {REPORT}")
    for promise in report["promises"]:
        say(f"{'held    ' if promise['held'] else 'NOT HELD'}  {promise['promise']}: {promise['seen']}")
    print("demo ok")


def promises(report):
    """The bounds of SPECIFICATION.md, and whether this run held them. A slow machine is no failure."""
    launch, wake = median(report["launch_to_first_response_ms"]), median(report["resume_to_first_response_ms"])
    cold = report["cold_boot_to_first_response_ms"]
    delta, private = report["suspend_delta_bytes"] / 2**20, max(report["clones"]["private_bytes"]) / 2**20
    return [
        {"promise": what, "seen": seen, "held": held}
        for what, seen, held in (
            ("median launch at most 1/20 of a cold boot", f"1/{cold / launch:.0f}", launch * 20 <= cold),
            ("median wake no slower than the median launch", f"{wake} ms, {launch} ms", wake <= launch),
            ("delta of an idle suspend under 24 MiB", f"{delta:.1f} MiB", delta < 24),
            ("private memory of an idle clone under 60 MiB", f"{private:.1f} MiB", private < 60),
        )
    ]


def run_doctor(daemon):
    """QEMU's version and the accelerator, as Colibri itself sees them."""
    command = [str(PROGRAM), "doctor", "--json", "--data-dir", str(daemon.data), "--guest-dir", str(GUEST_DIRECTORY)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return json.dumps(json.loads(run.stdout)["machine"])


if __name__ == "__main__":
    main()
