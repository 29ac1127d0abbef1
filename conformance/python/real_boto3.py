"""The main path on a real machine through boto3, and its endpoint through urllib."""

import json
import ssl
import urllib.request

import boto3
from real_path import ARTIFACT, CA, HOOKS, POLICY, RESOURCES, SECONDS
from report import BASE_IMAGE, ROLE, Report, equal, image_arn, wait_for

report = Report("boto3")
check = report.check
api = boto3.client("lambda-microvms")
IMAGE = image_arn("real-boto3")
made = {}


def reached(state):
    def there():
        found = api.get_microvm(microvmIdentifier=made["id"])
        assert state == "TERMINATED" or found["state"] != "TERMINATED", found
        return found["state"] == state

    wait_for(state, there, SECONDS)


def visits():
    context = ssl.create_default_context(cafile=CA)
    request = urllib.request.Request(f"https://{made['endpoint']}/", headers={"X-aws-proxy-auth": made["token"]})
    with urllib.request.urlopen(request, context=context, timeout=120) as answer:
        return json.load(answer)["visits"]


@check("CreateMicrovmImage")
def _():
    api.create_microvm_image(
        name="real-boto3",
        baseImageArn=BASE_IMAGE,
        buildRoleArn=ROLE,
        codeArtifact={"uri": ARTIFACT},
        resources=RESOURCES,
        hooks=HOOKS,
    )

    def built():
        state = api.get_microvm_image(imageIdentifier=IMAGE)["state"]
        assert state in ("CREATING", "CREATED"), state
        return state == "CREATED"

    wait_for("the image", built, SECONDS)


@check("RunMicrovm")
def _():
    microvm = api.run_microvm(imageIdentifier=IMAGE, idlePolicy=POLICY)
    made.update(id=microvm["microvmId"], endpoint=microvm["endpoint"])
    reached("RUNNING")


@check("CreateMicrovmAuthToken")
def _():
    token = api.create_microvm_auth_token(
        microvmIdentifier=made["id"], expirationInMinutes=30, allowedPorts=[{"port": 8080}]
    )
    made["token"] = token["authToken"]["X-aws-proxy-auth"]


@check("a request")
def _():
    equal("visits", visits(), 1)


@check("SuspendMicrovm")
def _():
    api.suspend_microvm(microvmIdentifier=made["id"])
    reached("SUSPENDED")


@check("a request that wakes it")
def _():
    equal("visits", visits(), 2)


@check("ResumeMicrovm")
def _():
    api.suspend_microvm(microvmIdentifier=made["id"])
    reached("SUSPENDED")
    api.resume_microvm(microvmIdentifier=made["id"])
    reached("RUNNING")
    equal("visits", visits(), 3)


@check("TerminateMicrovm")
def _():
    api.terminate_microvm(microvmIdentifier=made["id"])
    reached("TERMINATED")
