"""What every program here says: one line of JSON for each thing that was tried."""

import json
import platform
import time

REGION = "us-east-1"
ACCOUNT = "000000000000"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/conformance"
BASE_IMAGE = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:none"
CONNECTOR = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector"
# What this host builds for. Not every client's model can read it off the managed image.
ARCHITECTURE = {"aarch64": "ARM_64"}.get(platform.machine(), "X86_64")
SECONDS = 60


def image_arn(name):
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:{name}"


def connector_arn(identifier):
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:{identifier}"


def vpc(subnet):
    """The least that a network connector is configured with."""
    return {"VpcEgressConfiguration": {"SubnetIds": [subnet]}}


class Report:
    """Prints what passed and what did not; a failure never stops what comes after it."""

    def __init__(self, client):
        self.client = client

    def line(self, operation, passed, detail):
        line = {"operation": operation, "client": self.client, "passed": passed, "detail": detail}
        print(json.dumps(line), flush=True)

    def check(self, operation):
        """Decorates a function that is the check; it runs at once. What it returns is the detail."""

        def run(function):
            try:
                self.line(operation, True, str(function() or ""))
            except Exception as error:
                self.line(operation, False, f"{type(error).__name__}: {error}")

        return run


def equal(what, found, expected):
    assert found == expected, f"{what}: {found!r} instead of {expected!r}"


def wait_for(what, condition, seconds=SECONDS):
    """Polls, the only way to follow the API."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
