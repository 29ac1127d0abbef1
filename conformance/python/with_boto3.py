"""Every operation, paginator and error of the API through boto3, with nothing set but AWS_ENDPOINT_URL and
the credentials' files. Every answer is also held against the service's model."""

import datetime
import io
import sys
import uuid
import zipfile

import boto3
import botocore.session
import core_with_boto3
from answers import faults
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
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

report = Report("boto3")
check = report.check
api = boto3.client("lambda-microvms")
answers_against_model = []


def hold_against_model(http_response, model, **_):
    if http_response.status_code < 300:
        answers_against_model.append(model.name)
    found = faults(model, http_response)
    assert not found, f"{model.name}: {'; '.join(found)}"


api.meta.events.register("after-call.lambda-microvms", hold_against_model)


def recent(what, moment):
    assert isinstance(moment, datetime.datetime), f"{what} is {moment!r}, no time"
    age = (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
    assert -5 < age < 600, f"{what} is {age} s ago"


def raises(exception, call, **arguments):
    """The client's own class of the error, with its parsed members."""
    try:
        call(**arguments)
    except exception as error:
        equal("class", type(error).__name__, error.response["Error"]["Code"])
        assert error.response["Error"]["Message"], "no message"
        assert error.response["ResponseMetadata"]["RequestId"], "no request id"
        return error
    raise AssertionError(f"{exception.__name__} was not raised")


def application():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("Dockerfile", "FROM scratch\n")
    return content.getvalue()


def settled(name, *states):
    def reached():
        image = api.get_microvm_image(imageIdentifier=image_arn(name))
        assert not image["state"].endswith("_FAILED"), image["state"]
        return image if image["state"] in states else None

    return wait_for(f"{name} {states}", reached)


def reached(microvm_id, state):
    def there():
        microvm = api.get_microvm(microvmIdentifier=microvm_id)
        return microvm if microvm["state"] == state else None

    return wait_for(f"{microvm_id} {state}", there)


def pages(operation, size=1, **arguments):
    """Items over all pages of at most `size`, and how many pages there were."""
    found = list(api.get_paginator(operation).paginate(**arguments, PaginationConfig={"PageSize": size}))
    for page in found:
        assert len(page["items"]) <= size, f"a page of {len(page['items'])} items where {size} was asked for"
    return [item for page in found for item in page["items"]], len(found)


ARTIFACT = {"uri": "s3://conformance-boto3/application.zip"}
MINIMAL = {"baseImageArn": BASE_IMAGE, "buildRoleArn": ROLE, "codeArtifact": ARTIFACT}
FULL = {
    **MINIMAL,
    "baseImageVersion": "1",
    "cpuConfigurations": [{"architecture": ARCHITECTURE}],
    "description": "Everything that can be said: ä, 漢, \"quoted\"",
    "logging": {"cloudWatch": {"logGroup": "/conformance/boto3", "logStream": "builds"}},
    "egressNetworkConnectors": [f"{CONNECTOR}:INTERNET_EGRESS"],
    "resources": [{"minimumMemoryInMiB": 512}],
    "additionalOsCapabilities": ["ALL"],
    "hooks": {
        "port": 9000,
        "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 60, "validate": "DISABLED"},
        "microvmHooks": {
            name: value
            for hook in ("run", "resume", "suspend", "terminate")
            for name, value in ((hook, "ENABLED"), (f"{hook}TimeoutInSeconds", 10))
        },
    },
    "environmentVariables": {"PLAIN": "value", "EMPTY": "", "UMLAUT": "ä=漢\n"},
}
TAGS = {"team": "conformance", "a key:with/odd=+chars@._-": "välue"}
FIRST, SECOND, THIRD = (image_arn(name) for name in ("first", "second", "third"))
microvms = []


@check("s3")
def _():
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="conformance-boto3")
    content = application()
    s3.put_object(Bucket="conformance-boto3", Key="application.zip", Body=content)
    found = s3.get_object(Bucket="conformance-boto3", Key="application.zip")["Body"].read()
    equal("object", found, content)
    for call, arguments, exception in (
        (s3.get_object, {"Bucket": "conformance-boto3", "Key": "none"}, s3.exceptions.NoSuchKey),
        (s3.list_objects_v2, {"Bucket": "conformance-none"}, s3.exceptions.NoSuchBucket),
    ):
        raises(exception, call, **arguments)


@check("sts")
def _():
    identity = boto3.client("sts").get_caller_identity()
    equal("account", identity["Account"], ACCOUNT)
    assert identity["Arn"].startswith(f"arn:aws:iam::{ACCOUNT}:"), identity
    nobody = {"aws_access_key_id": "AKIANOBODYKNOWSTHISK", "aws_secret_access_key": "x"}
    for code, client in (
        ("InvalidClientTokenId", boto3.client("sts", **nobody)),
        ("SignatureDoesNotMatch", boto3.client("sts", region_name="eu-west-1")),
        ("MissingAuthenticationToken", boto3.client("sts", config=Config(signature_version=UNSIGNED))),
    ):
        try:
            client.get_caller_identity()
        except ClientError as error:
            equal("code", error.response["Error"]["Code"], code)
            assert error.response["Error"]["Message"] and error.response["ResponseMetadata"]["RequestId"], error
        else:
            raise AssertionError(f"{code} was not raised")


@check("ListManagedMicrovmImages")
def _():
    items = api.list_managed_microvm_images()["items"]
    assert BASE_IMAGE in [item["imageArn"] for item in items], items


@check("ListManagedMicrovmImageVersions")
def _():
    versions = api.list_managed_microvm_image_versions(imageIdentifier=BASE_IMAGE)["items"]
    equal("status", versions[0]["status"], "AVAILABLE")
    equal("imageVersion", versions[0]["imageVersion"], FULL["baseImageVersion"])
    equal("supported", versions[0]["supportedCpuConfigurations"], FULL["cpuConfigurations"])


@check("paginator ListManagedMicrovmImages")
def _():
    equal("images", [item["imageArn"] for item in pages("list_managed_microvm_images")[0]], [BASE_IMAGE])


@check("paginator ListManagedMicrovmImageVersions")
def _():
    assert pages("list_managed_microvm_image_versions", imageIdentifier=BASE_IMAGE)[0]


def echoed(given):
    """What an answer repeats of a configuration: its base version in the dotted form."""
    return {**given, "baseImageVersion": f"{given['baseImageVersion']}.0"}


@check("CreateMicrovmImage")
def _():
    token = str(uuid.uuid4())
    image = api.create_microvm_image(name="first", tags=TAGS, clientToken=token, **FULL)
    expected = {"imageArn": FIRST, "name": "first", "state": "CREATING", "imageVersion": "1.0", "tags": TAGS}
    for name, value in {**expected, **echoed(FULL)}.items():
        equal(name, image.get(name), value)
    recent("createdAt", image["createdAt"])
    again = api.create_microvm_image(name="first", tags=TAGS, clientToken=token, **FULL)
    equal("replayed", again["createdAt"], image["createdAt"])


@check("GetMicrovmImage")
def _():
    image = settled("first", "CREATED")
    equal("latestActiveImageVersion", image["latestActiveImageVersion"], "1.0")
    equal("tags", image["tags"], TAGS)


@check("UpdateMicrovmImage")
def _():
    image = api.update_microvm_image(imageIdentifier=FIRST, **MINIMAL)
    equal("state", image["state"], "UPDATING")
    equal("imageVersion", image["imageVersion"], "2.0")
    equal("resources", image["resources"], [{"minimumMemoryInMiB": 2048}])
    equal("egress", image["egressNetworkConnectors"], [f"{CONNECTOR}:INTERNET_EGRESS"])
    equal("dropped", [name for name in ("hooks", "environmentVariables", "description") if name in image], [])
    recent("updatedAt", image["updatedAt"])
    equal("active", settled("first", "UPDATED")["latestActiveImageVersion"], "2.0")


@check("ListMicrovmImages")
def _():
    for name in ("second", "third"):
        api.create_microvm_image(name=name, **MINIMAL)
        settled(name, "CREATED")
    items = api.list_microvm_images()["items"]
    equal("images", sorted(item["name"] for item in items), ["first", "second", "third"])
    items = api.list_microvm_images(nameFilter="eco", maxResults=50)["items"]
    equal("filtered", [item["imageArn"] for item in items], [SECOND])


@check("paginator ListMicrovmImages")
def _():
    items, count = pages("list_microvm_images")
    equal("images", sorted(item["name"] for item in items), ["first", "second", "third"])
    assert count >= 3, f"{count} pages"
    # Filters apply after paging: there are empty pages on the way.
    equal("filtered", [item["name"] for item in pages("list_microvm_images", nameFilter="third")[0]], ["third"])


@check("GetMicrovmImageVersion")
def _():
    version = api.get_microvm_image_version(imageIdentifier=FIRST, imageVersion="1.0")
    expected = {"imageArn": FIRST, "imageVersion": "1.0", "state": "SUCCESSFUL", "tags": TAGS}
    for name, value in {**expected, **echoed(FULL)}.items():
        equal(name, version.get(name), value)
    assert "stateReason" not in version, version["stateReason"]


@check("ListMicrovmImageVersions")
def _():
    items = api.list_microvm_image_versions(imageIdentifier=FIRST)["items"]
    equal("newest first", [item["imageVersion"] for item in items], ["2.0", "1.0"])


@check("paginator ListMicrovmImageVersions")
def _():
    items, count = pages("list_microvm_image_versions", imageIdentifier=FIRST)
    equal("versions", [item["imageVersion"] for item in items], ["2.0", "1.0"])
    assert count >= 2, f"{count} pages"


@check("ListMicrovmImageBuilds")
def _():
    build = api.list_microvm_image_builds(imageIdentifier=FIRST, imageVersion="1.0")["items"][0]
    equal("buildState", build["buildState"], "SUCCESSFUL")
    same = api.list_microvm_image_builds(
        imageIdentifier=FIRST,
        imageVersion="1",
        architecture=build["architecture"],
        chipset=build["chipset"],
        chipsetGeneration=build["chipsetGeneration"],
    )["items"]
    equal("filtered", [item["buildId"] for item in same], [build["buildId"]])
    other = "ARM_64" if build["architecture"] == "X86_64" else "X86_64"
    rest = api.list_microvm_image_builds(imageIdentifier=FIRST, imageVersion="1.0", architecture=other)["items"]
    equal("of the other architecture", rest, [])


@check("paginator ListMicrovmImageBuilds")
def _():
    assert pages("list_microvm_image_builds", imageIdentifier=FIRST, imageVersion="1.0")[0]


@check("GetMicrovmImageBuild")
def _():
    listed = api.list_microvm_image_builds(imageIdentifier=FIRST, imageVersion="1.0")["items"][0]
    build = api.get_microvm_image_build(imageIdentifier=FIRST, imageVersion="1.0", buildId=listed["buildId"])
    sizes = build.pop("snapshotBuild")
    assert len(sizes) == 3 and all(isinstance(size, int) for size in sizes.values()), sizes
    build.pop("ResponseMetadata")
    equal("build", build, listed)


@check("UpdateMicrovmImageVersion")
def _():
    for status, active in (("INACTIVE", "1.0"), ("ACTIVE", "2.0")):
        version = api.update_microvm_image_version(imageIdentifier=FIRST, imageVersion="2.0", status=status)
        equal("status", version["status"], status)
        image = api.get_microvm_image(imageIdentifier=FIRST)
        equal("latestActiveImageVersion", image["latestActiveImageVersion"], active)


@check("ListTags")
def _():
    equal("tags", api.list_tags(Resource=FIRST)["Tags"], TAGS)
    equal("no tags", api.list_tags(Resource=SECOND)["Tags"], {})


@check("TagResource")
def _():
    api.tag_resource(Resource=FIRST, Tags={"team": "other", "extra": ""})
    equal("tags", api.list_tags(Resource=FIRST)["Tags"], {**TAGS, "team": "other", "extra": ""})


@check("UntagResource")
def _():
    api.untag_resource(Resource=FIRST, TagKeys=[*TAGS, "none"])
    equal("tags", api.list_tags(Resource=FIRST)["Tags"], {"extra": ""})


@check("RunMicrovm")
def _():
    settings = {
        "imageIdentifier": FIRST,
        "imageVersion": "1.0",
        "executionRoleArn": ROLE,
        "idlePolicy": {"maxIdleDurationSeconds": 600, "suspendedDurationSeconds": 600, "autoResumeEnabled": True},
        "logging": {"disabled": {}},
        "runHookPayload": '{"from": "boto3"}',
        "maximumDurationInSeconds": 3600,
        "ingressNetworkConnectors": [f"{CONNECTOR}:HTTP_INGRESS", f"{CONNECTOR}:SHELL_INGRESS"],
        "egressNetworkConnectors": [f"{CONNECTOR}:INTERNET_EGRESS"],
        "clientToken": str(uuid.uuid4()),
    }
    microvm = api.run_microvm(**settings)
    microvms.append(microvm["microvmId"])
    equal("state", microvm["state"], "PENDING")
    equal("imageArn", microvm["imageArn"], FIRST)
    never_echoed = ("imageIdentifier", "logging", "runHookPayload", "clientToken")
    for name, value in settings.items():
        equal(name, microvm.get(name), None if name in never_echoed else value)
    assert "://" not in microvm["endpoint"], microvm["endpoint"]
    equal("replayed", api.run_microvm(**settings)["microvmId"], microvms[0])
    for image in (SECOND, SECOND):
        microvm = api.run_microvm(imageIdentifier=image)
        equal("connectors", microvm["ingressNetworkConnectors"], [f"{CONNECTOR}:HTTP_INGRESS"])
        microvms.append(microvm["microvmId"])


@check("GetMicrovm")
def _():
    for microvm_id in microvms:
        reached(microvm_id, "RUNNING")
    microvm = api.get_microvm(microvmIdentifier=microvms[0])
    equal("maximumDurationInSeconds", microvm["maximumDurationInSeconds"], 3600)
    assert "stateReason" not in microvm and "terminatedAt" not in microvm, microvm


@check("ListMicrovms")
def _():
    equal("microvms", sorted(item["microvmId"] for item in api.list_microvms()["items"]), sorted(microvms))
    items = api.list_microvms(imageIdentifier=FIRST, imageVersion="1.0")["items"]
    equal("of an image", [item["microvmId"] for item in items], microvms[:1])


@check("paginator ListMicrovms")
def _():
    items, count = pages("list_microvms")
    equal("microvms", sorted(item["microvmId"] for item in items), sorted(microvms))
    assert count >= 3, f"{count} pages"
    items = pages("list_microvms", imageIdentifier=SECOND)[0]
    equal("of an image", sorted(item["microvmId"] for item in items), sorted(microvms[1:]))


@check("CreateMicrovmAuthToken")
def _():
    ports = [{"port": 8080}, {"range": {"startPort": 9000, "endPort": 9010}}]
    for allowed in (ports, [{"allPorts": {}}]):
        answer = api.create_microvm_auth_token(
            microvmIdentifier=microvms[0], expirationInMinutes=60, allowedPorts=allowed
        )
        equal("keys", list(answer["authToken"]), ["X-aws-proxy-auth"])


@check("CreateMicrovmShellAuthToken")
def _():
    answer = api.create_microvm_shell_auth_token(microvmIdentifier=microvms[0], expirationInMinutes=1)
    equal("keys", list(answer["authToken"]), ["X-aws-proxy-auth"])


@check("SuspendMicrovm")
def _():
    api.suspend_microvm(microvmIdentifier=microvms[0])
    reached(microvms[0], "SUSPENDED")
    api.suspend_microvm(microvmIdentifier=microvms[0])


@check("ResumeMicrovm")
def _():
    api.resume_microvm(microvmIdentifier=microvms[0])
    reached(microvms[0], "RUNNING")
    api.resume_microvm(microvmIdentifier=microvms[0])


@check("TerminateMicrovm")
def _():
    api.terminate_microvm(microvmIdentifier=microvms[0])
    microvm = reached(microvms[0], "TERMINATED")
    recent("terminatedAt", microvm["terminatedAt"])
    equal("stateReason", microvm["stateReason"], "Success.")
    api.terminate_microvm(microvmIdentifier=microvms[0])


@check("ValidationException")
def _():
    error = api.exceptions.ValidationException
    raises(error, api.get_microvm_image, imageIdentifier="first")
    raises(error, api.create_microvm_image, name="no spaces", **MINIMAL)
    raises(error, api.create_microvm_image, name="second", **MINIMAL)
    raises(error, api.list_microvms, nextToken="none")
    raises(error, api.list_microvms, maxResults=51)
    raises(error, api.delete_microvm_image_version, imageIdentifier=SECOND, imageVersion="1.0")
    # The second one has no shell.
    raises(error, api.create_microvm_shell_auth_token, microvmIdentifier=microvms[1], expirationInMinutes=1)
    found = raises(
        error,
        api.create_microvm_auth_token,
        microvmIdentifier=microvms[1],
        expirationInMinutes=61,
        allowedPorts=[{"port": 1}],
    )
    equal("message", found.response["Error"]["Message"], "ExpirationMinutes 61 exceeded max allowed of 60.")


@check("ResourceNotFoundException")
def _():
    error = api.exceptions.ResourceNotFoundException
    none = image_arn("none")
    found = raises(error, api.get_microvm_image, imageIdentifier=none)
    equal("resourceId", found.response["resourceId"], none)
    assert found.response["resourceType"], "no resourceType"
    microvm = "microvm-00000000-0000-4000-8000-000000000000"
    nothing = {"imageIdentifier": FIRST, "imageVersion": "9.0"}
    for call, arguments in (
        (api.update_microvm_image, {"imageIdentifier": none, **MINIMAL}),
        (api.delete_microvm_image, {"imageIdentifier": none}),
        (api.list_microvm_image_versions, {"imageIdentifier": none}),
        (api.get_microvm_image_version, nothing),
        (api.update_microvm_image_version, {**nothing, "status": "ACTIVE"}),
        (api.delete_microvm_image_version, nothing),
        (api.list_microvm_image_builds, nothing),
        (api.get_microvm_image_build, {"imageIdentifier": FIRST, "imageVersion": "1.0", "buildId": "none"}),
        (api.list_managed_microvm_image_versions, {"imageIdentifier": FIRST}),
        (api.run_microvm, {"imageIdentifier": none}),
        (api.get_microvm, {"microvmIdentifier": microvm}),
        (api.suspend_microvm, {"microvmIdentifier": microvm}),
        (api.resume_microvm, {"microvmIdentifier": microvm}),
        (api.terminate_microvm, {"microvmIdentifier": microvm}),
        (
            api.create_microvm_auth_token,
            {"microvmIdentifier": microvm, "expirationInMinutes": 1, "allowedPorts": [{"port": 1}]},
        ),
        (api.create_microvm_shell_auth_token, {"microvmIdentifier": microvm, "expirationInMinutes": 1}),
        (api.list_tags, {"Resource": none}),
        (api.tag_resource, {"Resource": none, "Tags": {"a": "b"}}),
        (api.untag_resource, {"Resource": none, "TagKeys": ["a"]}),
    ):
        raises(error, call, **arguments)


@check("ConflictException")
def _():
    error = api.exceptions.ConflictException
    found = raises(error, api.suspend_microvm, microvmIdentifier=microvms[0])
    equal("resourceId", found.response["resourceId"], microvms[0])
    raises(error, api.resume_microvm, microvmIdentifier=microvms[0])
    token = str(uuid.uuid4())
    microvms.append(api.run_microvm(imageIdentifier=SECOND, clientToken=token)["microvmId"])
    raises(error, api.run_microvm, imageIdentifier=THIRD, clientToken=token)


@check("InvalidParameterValueException")
def _():
    error = api.exceptions.InvalidParameterValueException
    found = raises(error, api.list_tags, Resource=FUNCTION)
    equal("Type", found.response["Type"], "User")
    raises(error, api.tag_resource, Resource=FUNCTION, Tags={"a": "b"})
    raises(error, api.untag_resource, Resource=FUNCTION, TagKeys=["a"])


@check("ServiceQuotaExceededException")
def _():
    def fill():
        for number in range(10):
            api.create_microvm_image(name=f"filler-{number}", **MINIMAL)

    found = raises(api.exceptions.ServiceQuotaExceededException, fill)
    equal("status", found.response["ResponseMetadata"]["HTTPStatusCode"], 402)
    equal("quotaCode", found.response["quotaCode"], "L-942E56BE")
    equal("serviceCode", found.response["serviceCode"], "lambda")


@check("InsufficientCapacityException")
def _():
    def fill():
        for _ in range(10):
            microvms.append(api.run_microvm(imageIdentifier=SECOND)["microvmId"])

    raises(api.exceptions.InsufficientCapacityException, fill)


def refused(code, **credentials):
    """Not in the model: clients raise their general class, with the code."""
    own = boto3.Session(**credentials).client("lambda-microvms")
    try:
        own.list_microvms()
    except ClientError as error:
        equal("code", error.response["Error"]["Code"], code)
        equal("status", error.response["ResponseMetadata"]["HTTPStatusCode"], 403)
        assert error.response["Error"]["Message"], "no message"
    else:
        raise AssertionError("answered")


@check("UnrecognizedClientException")
def _():
    refused("UnrecognizedClientException", aws_access_key_id="AKIANOBODYKNOWSTHISK", aws_secret_access_key="x")


@check("InvalidSignatureException")
def _():
    key = botocore.session.get_session().get_credentials().access_key
    refused("InvalidSignatureException", aws_access_key_id=key, aws_secret_access_key="x")


@check("MissingAuthenticationTokenException")
def _():
    anonymous = boto3.client("lambda-microvms", config=Config(signature_version=UNSIGNED))
    try:
        anonymous.list_microvms()
    except ClientError as error:
        equal("code", error.response["Error"]["Code"], "MissingAuthenticationTokenException")
    else:
        raise AssertionError("answered")


@check("DeleteMicrovmImageVersion")
def _():
    answer = api.delete_microvm_image_version(imageIdentifier=FIRST, imageVersion="2.0")
    equal("state", answer["state"], "DELETING")
    equal("imageVersion", answer["imageVersion"], "2.0")
    equal("active", settled("first", "UPDATED")["latestActiveImageVersion"], "1.0")
    gone = api.exceptions.ResourceNotFoundException
    raises(gone, api.get_microvm_image_version, imageIdentifier=FIRST, imageVersion="2.0")
    again = api.delete_microvm_image_version(imageIdentifier=FIRST, imageVersion="2.0")
    equal("again", again["state"], "DELETED")


@check("DeleteMicrovmImage")
def _():
    answer = api.delete_microvm_image(imageIdentifier=FIRST)
    equal("state", answer["state"], "DELETING")
    equal("imageIdentifier", answer["imageIdentifier"], FIRST)

    def gone():
        try:
            api.get_microvm_image(imageIdentifier=FIRST)
        except api.exceptions.ResourceNotFoundException:
            return True
        return False

    wait_for("first gone", gone)
    equal("again", api.delete_microvm_image(imageIdentifier=FIRST)["state"], "DELETED")


for microvm in microvms:
    api.terminate_microvm(microvmIdentifier=microvm)
for microvm in microvms:
    reached(microvm, "TERMINATED")


def run_with_connector(**settings):
    answer = api.run_microvm(imageIdentifier=SECOND, **settings)
    api.terminate_microvm(microvmIdentifier=answer["microvmId"])
    return answer


unheld = core_with_boto3.drive(check, raises, run_with_connector, api.list_tags)
unheld |= set(api.meta.service_model.operation_names) - set(answers_against_model)
if unheld:
    sys.exit(f"no answer of these was held against the model: {sorted(unheld)}")
