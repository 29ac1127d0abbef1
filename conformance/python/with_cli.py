"""Every operation, paginator and error of the API through the AWS CLI, each call a process of its own, with
nothing set but AWS_ENDPOINT_URL and the credentials' files."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from functools import partial
from pathlib import Path

import core_with_cli
from report import (
    ACCOUNT,
    ARCHITECTURE,
    BASE_IMAGE,
    CONNECTOR,
    FUNCTION,
    ROLE,
    Report,
    equal,
    image_arn,
    wait_for,
)

report = Report("AWS CLI")
check = report.check
AWS = Path(sys.executable).with_name("aws")


class Refused(Exception):
    """What the CLI wrote to its standard error."""


def aws(*arguments, **environment):
    done = subprocess.run(
        [AWS, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "AWS_PAGER": "", **environment},
    )
    if done.returncode != 0:
        raise Refused(done.stderr.strip())
    try:
        return json.loads(done.stdout) if done.stdout.strip() else None
    except json.JSONDecodeError:
        return done.stdout


def call(operation, *arguments, service="lambda-microvms", **options):
    """An operation; options as the CLI names them, with `_` for `-`; structures go as JSON."""
    words = []
    for name, value in options.items():
        words.append("--" + name.replace("_", "-"))
        if isinstance(value, (dict, list)):
            words.append(json.dumps(value))
        elif value is not None:
            words.append(str(value))
    return aws(service, operation, *words, *arguments)


def raises(error, operation, /, *arguments, **options):
    """The error that the CLI names; its message."""
    try:
        call(operation, *arguments, **options)
    except Refused as refused:
        found = re.search(r"An error occurred \((\w+)\) when calling the \w+ operation[^:]*: (.+)", str(refused))
        assert found, str(refused)
        equal("error", found.group(1), error)
        return found.group(2)
    raise AssertionError(f"{error} was not raised")


def recent(what, seconds):
    """The CLI prints times as they come: seconds since the epoch."""
    age = time.time() - seconds
    assert -5 < age < 600, f"{what} is {age} s ago"


def settled(name, *states):
    def reached():
        image = call("get-microvm-image", image_identifier=image_arn(name))
        assert not image["state"].endswith("_FAILED"), image["state"]
        return image if image["state"] in states else None

    return wait_for(f"{name} {states}", reached)


def reached(microvm_id, state):
    def there():
        microvm = call("get-microvm", microvm_identifier=microvm_id)
        return microvm if microvm["state"] == state else None

    return wait_for(f"{microvm_id} {state}", there)


def pages(operation, field, **options):
    """One field of every item: all pages at once, then page by page as a script would."""
    everything = [item[field] for item in call(operation, page_size=1, **options)["items"]]
    one_by_one, token = [], {}
    while True:
        page = call(operation, max_items=1, page_size=1, **options, **token)
        one_by_one += [item[field] for item in page["items"]]
        if not page.get("NextToken"):
            break
        token = {"starting_token": page["NextToken"]}
    equal("page by page", one_by_one, everything)
    return everything


ARTIFACT = {"uri": "s3://conformance-cli/application.zip"}
MINIMAL = {"base_image_arn": BASE_IMAGE, "build_role_arn": ROLE, "code_artifact": ARTIFACT}
HOOKS = {
    "port": 9000,
    "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 60},
    "microvmHooks": {"run": "ENABLED", "runTimeoutInSeconds": 10},
}
ENVIRONMENT = {"PLAIN": "value", "EMPTY": "", "UMLAUT": "ä=漢"}
TAGS = {"team": "conformance", "a key:with/odd=+chars@._-": "välue"}
FIRST, SECOND, THIRD = (image_arn(name) for name in ("first", "second", "third"))
NOBODY = {"AWS_ACCESS_KEY_ID": "AKIANOBODYKNOWSTHISK", "AWS_SECRET_ACCESS_KEY": "x"}
microvms = []
builds = []


@check("s3")
def _():
    with tempfile.TemporaryDirectory() as directory:
        sent, got = Path(directory) / "sent.zip", Path(directory) / "got.zip"
        with zipfile.ZipFile(sent, "w") as archive:
            archive.writestr("Dockerfile", "FROM scratch\n")
        aws("s3", "mb", "s3://conformance-cli")
        aws("s3", "cp", str(sent), ARTIFACT["uri"])
        aws("s3", "cp", ARTIFACT["uri"], str(got))
        equal("object", got.read_bytes(), sent.read_bytes())
    listing = aws("s3api", "list-objects-v2", "--bucket", "conformance-cli")
    equal("keys", [item["Key"] for item in listing["Contents"]], ["application.zip"])


@check("sts")
def _():
    equal("account", aws("sts", "get-caller-identity")["Account"], ACCOUNT)
    try:
        aws("sts", "get-caller-identity", **NOBODY)
    except Refused as refused:
        assert "(InvalidClientTokenId)" in str(refused), str(refused)
    else:
        raise AssertionError("answered")


@check("ListManagedMicrovmImages")
def _():
    equal("images", [item["imageArn"] for item in call("list-managed-microvm-images")["items"]], [BASE_IMAGE])


@check("ListManagedMicrovmImageVersions")
def _():
    # The model inside the CLI knows neither `status` nor `supportedCpuConfigurations` yet.
    versions = call("list-managed-microvm-image-versions", image_identifier=BASE_IMAGE)["items"]
    equal("versions", [version["imageVersion"] for version in versions], ["1"])


@check("paginator ListManagedMicrovmImages")
def _():
    equal("images", pages("list-managed-microvm-images", "imageArn"), [BASE_IMAGE])


@check("paginator ListManagedMicrovmImageVersions")
def _():
    assert pages("list-managed-microvm-image-versions", "imageVersion", image_identifier=BASE_IMAGE)


@check("CreateMicrovmImage")
def _():
    settings = {
        **MINIMAL,
        "name": "first",
        "base_image_version": "1",
        "cpu_configurations": [{"architecture": ARCHITECTURE}],
        "description": "ä, 漢",
        "egress_network_connectors": [f"{CONNECTOR}:INTERNET_EGRESS"],
        "resources": [{"minimumMemoryInMiB": 512}],
        "additional_os_capabilities": ["ALL"],
        "hooks": HOOKS,
        "environment_variables": ENVIRONMENT,
        "logging": {"cloudWatch": {"logGroup": "/conformance/cli"}},
        "tags": TAGS,
        "client_token": uuid.uuid4(),
    }
    image = call("create-microvm-image", **settings)
    expected = {"imageArn": FIRST, "state": "CREATING", "imageVersion": "1.0", "tags": TAGS, "hooks": HOOKS}
    for name, value in {**expected, "environmentVariables": ENVIRONMENT, "description": "ä, 漢"}.items():
        equal(name, image.get(name), value)
    recent("createdAt", image["createdAt"])
    equal("replayed", call("create-microvm-image", **settings)["createdAt"], image["createdAt"])


@check("GetMicrovmImage")
def _():
    image = settled("first", "CREATED")
    equal("latestActiveImageVersion", image["latestActiveImageVersion"], "1.0")
    equal("tags", image["tags"], TAGS)


@check("UpdateMicrovmImage")
def _():
    image = call("update-microvm-image", image_identifier=FIRST, **MINIMAL)
    equal("state and version", (image["state"], image["imageVersion"]), ("UPDATING", "2.0"))
    equal("resources", image["resources"], [{"minimumMemoryInMiB": 2048}])
    assert "hooks" not in image, image["hooks"]
    equal("active", settled("first", "UPDATED")["latestActiveImageVersion"], "2.0")


@check("ListMicrovmImages")
def _():
    # The shorthand that people type.
    call(
        "create-microvm-image",
        *("--code-artifact", f"uri={ARTIFACT['uri']}", "--resources", "minimumMemoryInMiB=512"),
        *("--tags", "team=conformance,kind=shorthand"),
        name="second",
        base_image_arn=BASE_IMAGE,
        build_role_arn=ROLE,
    )
    call("create-microvm-image", name="third", **MINIMAL)
    equal("tags", settled("second", "CREATED")["tags"], {"team": "conformance", "kind": "shorthand"})
    settled("third", "CREATED")
    equal("filtered", [i["name"] for i in call("list-microvm-images", name_filter="eco")["items"]], ["second"])


@check("paginator ListMicrovmImages")
def _():
    equal("images", sorted(pages("list-microvm-images", "name")), ["first", "second", "third"])
    # Filters apply after paging: there are empty pages on the way.
    equal("filtered", pages("list-microvm-images", "name", name_filter="third"), ["third"])


@check("GetMicrovmImageVersion")
def _():
    version = call("get-microvm-image-version", image_identifier=FIRST, image_version="1.0")
    expected = {"state": "SUCCESSFUL", "hooks": HOOKS, "environmentVariables": ENVIRONMENT}
    for name, value in expected.items():
        equal(name, version.get(name), value)


@check("ListMicrovmImageVersions")
def _():
    items = call("list-microvm-image-versions", image_identifier=FIRST)["items"]
    equal("newest first", [item["imageVersion"] for item in items], ["2.0", "1.0"])


@check("paginator ListMicrovmImageVersions")
def _():
    equal("versions", pages("list-microvm-image-versions", "imageVersion", image_identifier=FIRST), ["2.0", "1.0"])


@check("ListMicrovmImageBuilds")
def _():
    items = call("list-microvm-image-builds", image_identifier=FIRST, image_version="1.0")["items"]
    equal("buildState", items[0]["buildState"], "SUCCESSFUL")
    same = call(
        "list-microvm-image-builds",
        image_identifier=FIRST,
        image_version="1",
        architecture=items[0]["architecture"],
        chipset=items[0]["chipset"],
    )
    equal("filtered", same["items"], items)
    builds.append(items[0]["buildId"])


@check("paginator ListMicrovmImageBuilds")
def _():
    found = pages("list-microvm-image-builds", "buildId", image_identifier=FIRST, image_version="1.0")
    equal("builds", found, builds)


@check("GetMicrovmImageBuild")
def _():
    found = call("get-microvm-image-build", image_identifier=FIRST, image_version="1.0", build_id=builds[0])
    equal("buildState", found["buildState"], "SUCCESSFUL")
    equal("sizes", len(found["snapshotBuild"]), 3)


@check("UpdateMicrovmImageVersion")
def _():
    for status, active in (("INACTIVE", "1.0"), ("ACTIVE", "2.0")):
        version = call("update-microvm-image-version", image_identifier=FIRST, image_version="2.0", status=status)
        equal("status", version["status"], status)
        image = call("get-microvm-image", image_identifier=FIRST)
        equal("latestActiveImageVersion", image["latestActiveImageVersion"], active)


def tags():
    return call("list-tags", resource=FIRST)["Tags"]


@check("ListTags")
def _():
    equal("tags", tags(), TAGS)


@check("TagResource")
def _():
    call("tag-resource", resource=FIRST, tags={"team": "other", "extra": ""})
    equal("tags", tags(), {**TAGS, "team": "other", "extra": ""})


@check("UntagResource")
def _():
    call("untag-resource", "--tag-keys", *TAGS, resource=FIRST)
    equal("tags", tags(), {"extra": ""})


@check("RunMicrovm")
def _():
    settings = {
        "image_identifier": FIRST,
        "image_version": "1.0",
        "execution_role_arn": ROLE,
        "idle_policy": {"maxIdleDurationSeconds": 600, "suspendedDurationSeconds": 600, "autoResumeEnabled": True},
        "logging": {"disabled": {}},
        "run_hook_payload": "from the CLI",
        "maximum_duration_in_seconds": 3600,
        "ingress_network_connectors": [f"{CONNECTOR}:HTTP_INGRESS", f"{CONNECTOR}:SHELL_INGRESS"],
        "client_token": uuid.uuid4(),
    }
    microvm = call("run-microvm", **settings)
    microvms.append(microvm["microvmId"])
    equal("state", microvm["state"], "PENDING")
    equal("idlePolicy", microvm["idlePolicy"], settings["idle_policy"])
    equal("replayed", call("run-microvm", **settings)["microvmId"], microvms[0])
    for _ in range(2):
        microvms.append(call("run-microvm", image_identifier=SECOND)["microvmId"])


@check("GetMicrovm")
def _():
    for microvm_id in microvms:
        microvm = reached(microvm_id, "RUNNING")
        assert "stateReason" not in microvm, microvm
        recent("startedAt", microvm["startedAt"])


@check("ListMicrovms")
def _():
    items = call("list-microvms", image_identifier=FIRST, image_version="1.0")["items"]
    equal("of an image", [item["microvmId"] for item in items], microvms[:1])


@check("paginator ListMicrovms")
def _():
    equal("microvms", sorted(pages("list-microvms", "microvmId")), sorted(microvms))
    found = pages("list-microvms", "microvmId", image_identifier=SECOND)
    equal("of an image", sorted(found), sorted(microvms[1:]))


@check("CreateMicrovmAuthToken")
def _():
    for ports in ("port=8080", "range={startPort=9000,endPort=9010}", "allPorts={}"):
        answer = call(
            "create-microvm-auth-token",
            *("--allowed-ports", ports),
            microvm_identifier=microvms[0],
            expiration_in_minutes=60,
        )
        equal("keys", list(answer["authToken"]), ["X-aws-proxy-auth"])


@check("CreateMicrovmShellAuthToken")
def _():
    answer = call("create-microvm-shell-auth-token", microvm_identifier=microvms[0], expiration_in_minutes=1)
    equal("keys", list(answer["authToken"]), ["X-aws-proxy-auth"])


@check("SuspendMicrovm")
def _():
    equal("output", call("suspend-microvm", microvm_identifier=microvms[0]), None)
    reached(microvms[0], "SUSPENDED")


@check("ResumeMicrovm")
def _():
    equal("output", call("resume-microvm", microvm_identifier=microvms[0]), None)
    reached(microvms[0], "RUNNING")


@check("TerminateMicrovm")
def _():
    equal("output", call("terminate-microvm", microvm_identifier=microvms[0]), None)
    microvm = reached(microvms[0], "TERMINATED")
    recent("terminatedAt", microvm["terminatedAt"])
    call("terminate-microvm", microvm_identifier=microvms[0])


@check("ValidationException")
def _():
    raises("ValidationException", "get-microvm-image", image_identifier="first")
    raises("ValidationException", "create-microvm-image", name="no spaces", **MINIMAL)
    raises("ValidationException", "create-microvm-image", name="second", **MINIMAL)
    message = raises(
        "ValidationException",
        "create-microvm-auth-token",
        microvm_identifier=microvms[1],
        expiration_in_minutes=61,
        allowed_ports=[{"port": 1}],
    )
    equal("message", message, "ExpirationMinutes 61 exceeded max allowed of 60.")


@check("ResourceNotFoundException")
def _():
    none, error = image_arn("none"), "ResourceNotFoundException"
    message = raises(error, "get-microvm-image", image_identifier=none)
    equal("message", message, f"MicroVMImage not found for MicroVMImageID: {none}")
    raises(error, "run-microvm", image_identifier=none)
    raises(error, "list-tags", resource=none)
    raises(error, "terminate-microvm", microvm_identifier="microvm-00000000-0000-4000-8000-000000000000")


@check("ConflictException")
def _():
    raises("ConflictException", "suspend-microvm", microvm_identifier=microvms[0])
    token = uuid.uuid4()
    microvms.append(call("run-microvm", image_identifier=SECOND, client_token=token)["microvmId"])
    raises("ConflictException", "run-microvm", image_identifier=THIRD, client_token=token)


@check("InvalidParameterValueException")
def _():
    raises("InvalidParameterValueException", "list-tags", resource=FUNCTION)
    raises("InvalidParameterValueException", "tag-resource", resource=FUNCTION, tags={"a": "b"})


def until_refused(name, operation, options):
    """Repeats a call until the bound that the server has for it."""
    for number in range(10):
        try:
            call(operation, **options(number))
        except Refused as refused:
            assert f"({name})" in str(refused), str(refused)
            return
    raise AssertionError(f"{name} was not raised")


@check("ServiceQuotaExceededException")
def _():
    def fillers(number):
        return {"name": f"filler-{number}", **MINIMAL}

    until_refused("ServiceQuotaExceededException", "create-microvm-image", fillers)


@check("InsufficientCapacityException")
def _():
    until_refused("InsufficientCapacityException", "run-microvm", lambda _: {"image_identifier": SECOND})


def refused_for(code, *arguments, **keys):
    try:
        aws("lambda-microvms", "list-microvms", *arguments, **keys)
    except Refused as refused:
        assert f"({code})" in str(refused), str(refused)
    else:
        raise AssertionError("answered")


@check("UnrecognizedClientException")
def _():
    refused_for("UnrecognizedClientException", **NOBODY)


@check("InvalidSignatureException")
def _():
    text = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).read_text()
    key = re.search(r"aws_access_key_id\s*=\s*(\S+)", text).group(1)
    refused_for("InvalidSignatureException", AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY="x")


@check("MissingAuthenticationTokenException")
def _():
    refused_for("MissingAuthenticationTokenException", "--no-sign-request")


@check("DeleteMicrovmImageVersion")
def _():
    answer = call("delete-microvm-image-version", image_identifier=FIRST, image_version="2.0")
    equal("state", answer["state"], "DELETING")
    settled("first", "UPDATED")
    raises("ResourceNotFoundException", "get-microvm-image-version", image_identifier=FIRST, image_version="2.0")


@check("DeleteMicrovmImage")
def _():
    equal("state", call("delete-microvm-image", image_identifier=FIRST)["state"], "DELETING")

    def gone():
        return FIRST not in [item["imageArn"] for item in call("list-microvm-images")["items"]]

    wait_for("first gone", gone)
    raises("ResourceNotFoundException", "get-microvm-image", image_identifier=FIRST)
    equal("again", call("delete-microvm-image", image_identifier=FIRST)["state"], "DELETED")


for microvm in microvms:
    call("terminate-microvm", microvm_identifier=microvm)
for microvm in microvms:
    reached(microvm, "TERMINATED")

core = {"service": "lambda-core"}
run = partial(call, "run-microvm", image_identifier=SECOND)
core_with_cli.drive(check, partial(call, **core), partial(raises, **core), run)
