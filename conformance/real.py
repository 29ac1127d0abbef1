"""The main path of every client on real machines: an image is built, a MicroVM of it runs, answers,
sleeps, is woken by traffic and by the API, and ends. One daemon for all four clients, which work at once.

Reads, in order: the Rust client, the node program and the directory with the JavaScript client. Ends with
`N passed, M failed`, and with 1 where anything failed or was not tried, or something was left behind."""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from run import complain, conclude, said
from support.clients import Api, probe_application, zip_directory
from support.daemon import Daemon

ROWS = [
    "CreateMicrovmImage",
    "RunMicrovm",
    "CreateMicrovmAuthToken",
    "a request",
    "SuspendMicrovm",
    "a request that wakes it",
    "ResumeMicrovm",
    "TerminateMicrovm",
]
# The plain address: not every client's resolver knows the children of `localhost`. All four builds at once:
# no client's patience is for the other clients' builds.
SETTINGS = '[ingress]\nendpoints = "address"\n\n[images]\nconcurrent_builds = 4\n'


def environment(daemon, artifact):
    """All that a client is told, and what of the daemon it cannot ask the API for."""
    home = daemon.directory / "home"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "AWS_ENDPOINT_URL": daemon.endpoint,
        "AWS_SHARED_CREDENTIALS_FILE": str(daemon.data / "credentials"),
        "AWS_CONFIG_FILE": str(daemon.data / "config"),
        "COLIBRI_CA": daemon.ca,
        "NODE_EXTRA_CA_CERTS": daemon.ca,
        "COLIBRI_ARTIFACT": artifact,
    }


def failed_builds(daemon):
    """Why images were not made: the clients see a state only, and the log's end is of later things."""
    api = Api(daemon)
    images = api.microvms.list_microvm_images()["items"]
    reasons = [f"{i['name']}: {api.build_reason(i['imageArn'])}" for i in images if i["state"].endswith("_FAILED")]
    log = daemon.log.read_text(errors="replace").splitlines()
    return "\n".join([*reasons, *(line for line in log if " WARN " in line or " ERROR " in line)])


def drive(daemon, commands):
    (daemon.directory / "home").mkdir()
    artifact = Api(daemon).upload("probe.zip", zip_directory(probe_application()))
    told = environment(daemon, artifact)
    with ThreadPoolExecutor(len(commands)) as clients:
        running = {name: clients.submit(said, name, command, told, ROWS) for name, command in commands.items()}
        results = {name: outcome.result() for name, outcome in running.items()}
    for client, found in results.items():
        complain(client, found, lambda: f"{failed_builds(daemon)}\n{daemon.tail()}")
    Api(daemon).terminate_all()
    left = daemon.leftovers()
    if any(left.values()):
        results["boto3"]["nothing left behind"] = (False, str(left))
        print(f"left behind: {left}", file=sys.stderr)
    return results


def main():
    rust, node, javascript = sys.argv[1:]
    commands = {
        "AWS CLI": [sys.executable, "-B", HERE / "python" / "real_cli.py"],
        "boto3": [sys.executable, "-B", HERE / "python" / "real_boto3.py"],
        "JavaScript": [node, Path(javascript) / "real.mjs"],
        "Rust": [rust, "real"],
    }
    with tempfile.TemporaryDirectory(prefix="colibri-conformance-") as directory:
        daemon = Daemon(directory, SETTINGS).start()
        try:
            results = drive(daemon, commands)
        finally:
            daemon.stop()
    sys.exit(conclude(results, ROWS))


main()
