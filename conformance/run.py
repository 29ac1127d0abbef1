"""Runs every client against a server of its own, and prints what each of them could do.

Reads, in order: the simulated server, the Rust client, the node program and the directory with the
JavaScript client. Ends with `N passed, M failed`, and with 1 where anything failed or was not tried."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import botocore.session

HERE = Path(__file__).resolve().parent
READY_SECONDS = 30
CLIENT_SECONDS = 600
ERRORS = [
    "ValidationException",
    "ResourceNotFoundException",
    "ConflictException",
    "InvalidParameterValueException",
    "ServiceQuotaExceededException",
    "InsufficientCapacityException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
]
# What a client is not asked for.
CORE_ERRORS = [
    "lambda-core InvalidParameterValueException",
    "lambda-core ResourceConflictException",
    "lambda-core ResourceNotFoundException",
    "lambda-core NetworkConnectorLimitExceededException",
]
ATTACHED = "RunMicrovm with a network connector"
LEFT_OUT = {
    # The CLI's own model of lambda-core is older: it has neither the operation nor its paginator.
    ("ListNetworkConnectorVersions", "AWS CLI"),
    ("paginator ListNetworkConnectorVersions", "AWS CLI"),
    # The crate of S3 takes longer to compile than everything else here together.
    ("s3", "Rust"),
}


def wanted():
    """Rows of the table: what the published model has, so that nothing can be forgotten."""
    session = botocore.session.get_session()
    model = session.get_service_model("lambda-microvms")
    paginators = session.get_component("data_loader").load_service_model("lambda-microvms", "paginators-1")
    pages = [f"paginator {name}" for name in sorted(paginators["pagination"])]
    return [*sorted(model.operation_names), *pages, *ERRORS, "s3", "sts", *wanted_of_core(session)]


def wanted_of_core(session):
    """Rows of the network connectors: the operations of lambda-core that are not managed runtimes'."""
    model = session.get_service_model("lambda-core")
    paginators = session.get_component("data_loader").load_service_model("lambda-core", "paginators-1")
    served = [name for name in model.operation_names if "Runtime" not in name]
    pages = [f"paginator {name}" for name in sorted(paginators["pagination"]) if name in served]
    return [*sorted(served), *pages, ATTACHED, *CORE_ERRORS]


def is_left_out(row, client, of_core):
    # There is no package of lambda-core for JavaScript.
    return (row, client) in LEFT_OUT or (client == "JavaScript" and row in of_core)


class Server:
    """The API over the simulated world, in an empty directory."""

    def __init__(self, program, directory):
        self.directory = directory
        self.data = directory / "data"
        with (directory / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                [program, self.data], stdout=subprocess.PIPE, stderr=log, text=True
            )
        # A server that hangs at its start is ended, which ends the wait for its line.
        watchdog = threading.Timer(READY_SECONDS, self.process.kill)
        watchdog.start()
        words = self.process.stdout.readline().split()
        watchdog.cancel()
        if words[:1] != ["ready"]:
            self.stop()
            raise RuntimeError(f"the server did not start:\n{self.tail()}")
        self.endpoint = words[1].removeprefix("api=")

    def environment(self):
        """All that a client is told: one endpoint for every service, and where the credentials are."""
        home = self.directory / "home"
        home.mkdir()
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.data / "credentials"),
            "AWS_CONFIG_FILE": str(self.data / "config"),
        }

    def tail(self):
        return "\n".join((self.directory / "server.log").read_text(errors="replace").splitlines()[-20:])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def said(client, command, environment, rows):
    """One client's findings by row; a row that it never spoke of has failed."""
    found = {row: (False, "not tried") for row in rows}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CLIENT_SECONDS)
        for line in done.stdout.splitlines():
            line = json.loads(line)
            found[line["operation"]] = (line["passed"], line["detail"])
        if done.returncode != 0:
            found["the program"] = (False, f"ended with {done.returncode}: {done.stderr[-2000:]}")
    except subprocess.TimeoutExpired:
        found["the program"] = (False, f"did not end within {CLIENT_SECONDS} s")
    return found


def complain(client, found, tail):
    """Says what failed, with the last words of the server that it failed against."""
    failures = [f"{client}: {row}: {detail}" for row, (passed, detail) in found.items() if not passed]
    if failures:
        print("\n".join([*failures, "the server's last words:", tail()]), file=sys.stderr)


def drive(client, command, simulated):
    """One client against a server of its own."""
    of_core = wanted_of_core(botocore.session.get_session())
    rows = [row for row in wanted() if not is_left_out(row, client, of_core)]
    with tempfile.TemporaryDirectory(prefix="colibri-conformance-") as directory:
        server = Server(simulated, Path(directory))
        try:
            found = said(client, command, server.environment(), rows)
            complain(client, found, server.tail)
        finally:
            server.stop()
    return found


def conclude(results, rows):
    """Prints the table and the verdict; with what the program is to end."""
    rows = list(dict.fromkeys([*rows, *(row for found in results.values() for row in found)]))
    width = max(map(len, rows))
    print(" " * width, *results, sep="  ")
    for row in rows:
        cells = [found.get(row) for found in results.values()]
        marks = ["-" if cell is None else "passed" if cell[0] else "FAILED" for cell in cells]
        columns = [mark.ljust(len(client)) for mark, client in zip(marks, results, strict=True)]
        print(row.ljust(width), *columns, sep="  ")
    verdicts = [passed for found in results.values() for passed, _ in found.values()]
    print(f"{verdicts.count(True)} passed, {verdicts.count(False)} failed")
    return 0 if all(verdicts) else 1


def main():
    simulated, rust, node, javascript = sys.argv[1:]
    commands = {
        "AWS CLI": [sys.executable, "-B", HERE / "python" / "with_cli.py"],
        "boto3": [sys.executable, "-B", HERE / "python" / "with_boto3.py"],
        "JavaScript": [node, Path(javascript) / "main.mjs"],
        "Rust": [rust],
    }
    with ThreadPoolExecutor(len(commands)) as clients:
        running = {name: clients.submit(drive, name, command, simulated) for name, command in commands.items()}
        results = {name: outcome.result() for name, outcome in running.items()}
    sys.exit(conclude(results, wanted()))


if __name__ == "__main__":
    main()
