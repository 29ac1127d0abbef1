"""The main path on a real machine through the AWS CLI, and its endpoint through curl."""

import json
import subprocess
import sys
from pathlib import Path

from real_path import ARTIFACT, CA, HOOKS, POLICY, RESOURCES, SECONDS
from report import BASE_IMAGE, ROLE, Report, equal, image_arn, wait_for

report = Report("AWS CLI")
check = report.check
AWS = Path(sys.executable).with_name("aws")
IMAGE = image_arn("real-cli")
made = {}


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr.strip()
    return done.stdout


def call(operation, **options):
    words = []
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), json.dumps(value) if isinstance(value, (dict, list)) else value]
    said = run(AWS, "lambda-microvms", operation, *words)
    return json.loads(said) if said.strip() else None


def reached(state):
    def there():
        found = call("get-microvm", microvm_identifier=made["id"])
        assert state == "TERMINATED" or found["state"] != "TERMINATED", found
        return found["state"] == state

    wait_for(state, there, SECONDS)


def visits():
    said = run("curl", "-sS", "--fail-with-body", "--cacert", CA, "-H", f"X-aws-proxy-auth: {made['token']}", f"https://{made['endpoint']}/")
    return json.loads(said)["visits"]


@check("CreateMicrovmImage")
def _():
    call(
        "create-microvm-image",
        name="real-cli",
        base_image_arn=BASE_IMAGE,
        build_role_arn=ROLE,
        code_artifact={"uri": ARTIFACT},
        resources=RESOURCES,
        hooks=HOOKS,
    )

    def built():
        state = call("get-microvm-image", image_identifier=IMAGE)["state"]
        assert state in ("CREATING", "CREATED"), state
        return state == "CREATED"

    wait_for("the image", built, SECONDS)


@check("RunMicrovm")
def _():
    microvm = call("run-microvm", image_identifier=IMAGE, idle_policy=POLICY)
    made.update(id=microvm["microvmId"], endpoint=microvm["endpoint"])
    reached("RUNNING")


@check("CreateMicrovmAuthToken")
def _():
    token = call(
        "create-microvm-auth-token",
        microvm_identifier=made["id"],
        expiration_in_minutes="30",
        allowed_ports=[{"port": 8080}],
    )
    made["token"] = token["authToken"]["X-aws-proxy-auth"]


@check("a request")
def _():
    equal("visits", visits(), 1)


@check("SuspendMicrovm")
def _():
    call("suspend-microvm", microvm_identifier=made["id"])
    reached("SUSPENDED")


@check("a request that wakes it")
def _():
    equal("visits", visits(), 2)


@check("ResumeMicrovm")
def _():
    call("suspend-microvm", microvm_identifier=made["id"])
    reached("SUSPENDED")
    call("resume-microvm", microvm_identifier=made["id"])
    reached("RUNNING")
    equal("visits", visits(), 3)


@check("TerminateMicrovm")
def _():
    call("terminate-microvm", microvm_identifier=made["id"])
    reached("TERMINATED")
