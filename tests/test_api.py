"""The API itself, through boto3 and on the wire, without a guest: reads, pages, errors, statuses,
repetition, tags, versions."""

import datetime
import json

import botocore.exceptions
import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support.clients import BASE_IMAGE, REGION, ROLE, Api, wait_for, zip_directory
from support.daemon import Daemon

ACCOUNT = "000000000000"
IMAGES = [f"api-row-{number}" for number in range(5)]
SLOW = "FROM docker.io/library/debian:12-slim\nRUN sleep 60\n"
NOWHERE = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:api-none"
NOBODY = "microvm-00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def bad_uri(api):
    return api.upload("api-bad.zip", b"this is no archive")


@pytest.fixture(scope="module")
def rows(api, bad_uri):
    """Images whose builds have failed."""
    arns = [api.create_image(name, bad_uri, tags={"row": name})["imageArn"] for name in IMAGES]
    for arn in arns:
        api.wait_for_image(arn)
    return arns


@pytest.fixture
def busy_image(api, tmp_path):
    """An image that is being built for as long as its step sleeps."""
    (tmp_path / "Dockerfile").write_text(SLOW.replace("60", "8"))
    uri = api.upload("api-busy.zip", zip_directory(tmp_path))
    arn = api.create_image(f"api-busy-{tmp_path.name[-24:].strip('_').replace('_', '-')}", uri)["imageArn"]
    yield arn
    api.wait_for_image(arn)


def status(answer):
    return answer["ResponseMetadata"]["HTTPStatusCode"]


def nulls(value):
    """Where a parsed answer holds a null."""
    if isinstance(value, dict):
        return [key for key, inner in value.items() if inner is None or nulls(inner)]
    if isinstance(value, list):
        return [index for index, inner in enumerate(value) if inner is None or nulls(inner)]
    return []


def raw(daemon, method, path, body=None):
    """A signed request of the test's own making: what the clients would not send or not show."""
    keys = Api.credentials(daemon)
    data = None if body is None else json.dumps(body).encode()
    request = AWSRequest(method, f"{daemon.endpoint}{path}", data=data, headers={"Content-Type": "application/json"})
    SigV4Auth(Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"]), "lambda", REGION).add_auth(request)
    return requests.request(method, request.url, data=data, headers=dict(request.headers), timeout=30)


def refused(call, **arguments):
    with pytest.raises(botocore.exceptions.ClientError) as error:
        call(**arguments)
    return error.value


def test_every_read_tells_of_an_image_what_create_was_given(api, rows, bad_uri):
    arn, name = rows[0], IMAGES[0]
    image = api.microvms.get_microvm_image(imageIdentifier=arn)
    assert (image["name"], image["state"], image["tags"]) == (name, "CREATE_FAILED", {"row": name})
    assert image["latestFailedImageVersion"] == "1.0" and "latestActiveImageVersion" not in image
    version = api.microvms.get_microvm_image_version(imageIdentifier=arn, imageVersion="1.0")
    assert (version["baseImageArn"], version["buildRoleArn"]) == (BASE_IMAGE, ROLE)
    assert version["codeArtifact"] == {"uri": bad_uri}
    assert (version["state"], version["status"]) == ("FAILED", "INACTIVE")
    assert version["resources"] == [{"minimumMemoryInMiB": 512}]
    versions = api.microvms.list_microvm_image_versions(imageIdentifier=arn)["items"]
    version.pop("ResponseMetadata")
    assert versions == [version]
    builds = api.microvms.list_microvm_image_builds(imageIdentifier=arn, imageVersion="1.0")["items"]
    assert [(build["buildState"], build["imageVersion"]) for build in builds] == [("FAILED", "1.0")]
    assert builds[0]["stateReason"].startswith("ARCHIVE_INVALID")
    selection = {"imageIdentifier": arn, "imageVersion": "1.0", "buildId": builds[0]["buildId"]}
    build = api.microvms.get_microvm_image_build(**selection)
    build.pop("ResponseMetadata")
    assert build == builds[0]
    assert api.microvms.list_tags(Resource=arn)["Tags"] == {"row": name}
    for described in (image, version, builds[0]):
        age = datetime.datetime.now(datetime.timezone.utc) - described["createdAt"]
        assert datetime.timedelta(0) < age < datetime.timedelta(hours=1)


def test_the_managed_base_image_is_the_one_that_images_name(api):
    [item] = api.microvms.list_managed_microvm_images()["items"]
    assert item["imageArn"] == BASE_IMAGE
    [version] = api.microvms.list_managed_microvm_image_versions(imageIdentifier=BASE_IMAGE)["items"]
    assert (version["imageArn"], version["status"]) == (BASE_IMAGE, "AVAILABLE")
    assert len(version["supportedCpuConfigurations"]) == 1


def test_no_answer_holds_a_null_and_times_are_numbers(daemon, rows):
    image, version = f"/2025-09-09/microvm-images/{rows[0].replace(':', '%3A')}", "/versions/1.0"
    for path in (
        image,
        image + "/versions",
        image + version,
        image + version + "/builds",
        "/2025-09-09/microvm-images",
        "/2025-09-09/microvms",
        "/2025-09-09/managed-microvm-images",
    ):
        answer = raw(daemon, "GET", path)
        assert answer.status_code == 200, path
        body = answer.json()
        assert nulls(body) == [], path
        for item in body.get("items", [body]):
            assert isinstance(item.get("createdAt", item.get("startedAt")), (int, float)), path
        assert answer.headers["content-type"] == "application/json" and answer.headers["x-amzn-requestid"]


@pytest.mark.parametrize("size", [1, 2, 50])
def test_a_list_gives_every_image_once_whatever_the_size_of_its_pages(api, rows, size):
    pages = list(
        api.microvms.get_paginator("list_microvm_images").paginate(
            nameFilter="api-row-", PaginationConfig={"PageSize": size}
        )
    )
    assert all(len(page["items"]) <= size for page in pages)
    names = [item["name"] for page in pages for item in page["items"]]
    assert sorted(names) == IMAGES


def test_every_paginator_comes_to_its_end(api, rows):
    arguments = {
        "list_microvm_image_versions": {"imageIdentifier": rows[0]},
        "list_microvm_image_builds": {"imageIdentifier": rows[0], "imageVersion": "1.0"},
        "list_managed_microvm_image_versions": {"imageIdentifier": BASE_IMAGE},
    }
    for operation in (
        "list_managed_microvm_image_versions",
        "list_managed_microvm_images",
        "list_microvm_image_builds",
        "list_microvm_image_versions",
        "list_microvm_images",
        "list_microvms",
    ):
        paginator = api.microvms.get_paginator(operation)
        pages = list(paginator.paginate(**arguments.get(operation, {}), PaginationConfig={"PageSize": 1}))
        assert pages and "nextToken" not in pages[-1], operation


def test_a_token_continues_its_own_list_only(api, rows):
    page = api.microvms.list_microvm_images(nameFilter="api-row-", maxResults=1)
    token = page["nextToken"]
    assert api.microvms.list_microvm_images(nameFilter="api-row-", maxResults=1, nextToken=token)["items"]
    for call, arguments in (
        (api.microvms.list_microvm_images, {"nameFilter": "other", "nextToken": token}),
        (api.microvms.list_microvms, {"nextToken": token}),
        (api.microvms.list_microvm_images, {"nameFilter": "api-row-", "nextToken": token[:-2] + "AA"}),
        (api.microvms.list_managed_microvm_images, {"nextToken": "made-up"}),
    ):
        error = refused(call, **arguments)
        assert error.response["Error"]["Code"] == "ValidationException"
        assert "nextToken" in error.response["Error"]["Message"]


def test_what_does_not_exist_is_not_found_by_every_operation_that_names_it(api):
    missing = api.microvms.exceptions.ResourceNotFoundException
    image, version = {"imageIdentifier": NOWHERE}, {"imageVersion": "1.0"}
    configuration = {"baseImageArn": BASE_IMAGE, "buildRoleArn": ROLE, "codeArtifact": {"uri": "s3://artifacts/none.zip"}}
    microvm = {"microvmIdentifier": NOBODY}
    calls = {
        "get_microvm_image": image,
        "delete_microvm_image": image,
        "update_microvm_image": {**image, **configuration},
        "list_microvm_image_versions": image,
        "get_microvm_image_version": {**image, **version},
        "delete_microvm_image_version": {**image, **version},
        "update_microvm_image_version": {**image, **version, "status": "ACTIVE"},
        "list_microvm_image_builds": {**image, **version},
        "get_microvm_image_build": {**image, **version, "buildId": "x"},
        "list_managed_microvm_image_versions": image,
        "run_microvm": image,
        "get_microvm": microvm,
        "suspend_microvm": microvm,
        "resume_microvm": microvm,
        "terminate_microvm": microvm,
        "create_microvm_auth_token": {**microvm, "expirationInMinutes": 5, "allowedPorts": [{"allPorts": {}}]},
        "create_microvm_shell_auth_token": {**microvm, "expirationInMinutes": 5},
        "list_tags": {"Resource": NOWHERE},
        "tag_resource": {"Resource": NOWHERE, "Tags": {"a": "b"}},
        "untag_resource": {"Resource": NOWHERE, "TagKeys": ["a"]},
    }
    for operation, arguments in calls.items():
        error = refused(getattr(api.microvms, operation), **arguments)
        assert isinstance(error, missing), (operation, error)
        assert status(error.response) == 404, operation


def test_an_image_of_another_account_or_region_is_not_found(api, rows):
    for arn in (rows[0].replace(ACCOUNT, "111111111111"), rows[0].replace(REGION, "eu-west-1")):
        error = refused(api.microvms.get_microvm_image, imageIdentifier=arn)
        assert isinstance(error, api.microvms.exceptions.ResourceNotFoundException)


INVALID = {
    "taken-name": (None, {}),
    "no-s3-uri": ("api-invalid", {"codeArtifact": {"uri": "https://example.com/x.zip"}}),
    "no-role": ("api-invalid", {"buildRoleArn": "arn:aws:iam::000000000000:user/x"}),
    "unknown-base": ("api-invalid", {"baseImageArn": BASE_IMAGE.replace("al2023-1", "al2099-1")}),
    "size": ("api-invalid", {"resources": [{"minimumMemoryInMiB": 513}]}),
    "reserved-variable": ("api-invalid", {"environmentVariables": {"AWS_REGION": "x"}}),
    "name": ("api invalid", {}),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_image_is_refused_and_leaves_nothing(api, rows, bad_uri, case):
    name, settings = INVALID[case]
    arguments = {"baseImageArn": BASE_IMAGE, "buildRoleArn": ROLE, "codeArtifact": {"uri": bad_uri}, **settings}
    error = refused(api.microvms.create_microvm_image, name=name or IMAGES[0], **arguments)
    assert isinstance(error, api.microvms.exceptions.ValidationException)
    assert status(error.response) == 400 and error.response["Error"]["Message"]
    assert not api.microvms.list_microvm_images(nameFilter="api-invalid")["items"]


def test_an_image_that_is_built_cannot_be_changed_or_deleted(api, busy_image, bad_uri):
    configuration = {"baseImageArn": BASE_IMAGE, "buildRoleArn": ROLE, "codeArtifact": {"uri": bad_uri}}
    error = refused(api.microvms.update_microvm_image, imageIdentifier=busy_image, **configuration)
    assert isinstance(error, api.microvms.exceptions.ConflictException)
    assert status(error.response) == 409 and error.response["resourceId"] == busy_image
    assert "CREATING" in error.response["Error"]["Message"]
    error = refused(
        api.microvms.update_microvm_image_version, imageIdentifier=busy_image, imageVersion="1.0", status="ACTIVE"
    )
    assert isinstance(error, api.microvms.exceptions.ConflictException)
    error = refused(api.microvms.delete_microvm_image, imageIdentifier=busy_image)
    assert isinstance(error, api.microvms.exceptions.ValidationException)


def test_too_many_builds_at_once_exceed_a_quota(tmp_path):
    daemon = Daemon(tmp_path / "daemon").start()
    try:
        api = Api(daemon)
        (tmp_path / "Dockerfile").write_text(SLOW)
        uri = api.upload("slow.zip", zip_directory(tmp_path))
        created = 0
        with pytest.raises(api.microvms.exceptions.ServiceQuotaExceededException) as error:
            for number in range(100):
                api.create_image(f"queued-{number}", uri)
                created += 1
        assert status(error.value.response) == 402
        assert "concurrent builds" in error.value.response["Error"]["Message"]
        assert (error.value.response["serviceCode"], created) == ("lambda", 32)
        assert len(api.microvms.list_microvm_images(maxResults=50)["items"]) == created
    finally:
        daemon.stop()


def test_a_repeated_create_with_its_token_makes_one_image(api, bad_uri):
    arguments = {
        "name": "api-once",
        "baseImageArn": BASE_IMAGE,
        "buildRoleArn": ROLE,
        "codeArtifact": {"uri": bad_uri},
        "tags": {"a": "b"},
        "clientToken": "api-once-token",
    }
    first = api.microvms.create_microvm_image(**arguments)
    assert (status(first), first["state"], first["imageVersion"]) == (201, "CREATING", "1.0")
    again = api.microvms.create_microvm_image(**arguments)
    assert status(again) == 201
    for member in ("imageArn", "imageVersion", "createdAt", "tags", "codeArtifact"):
        assert again[member] == first[member]
    assert len(api.microvms.list_microvm_image_versions(imageIdentifier=first["imageArn"])["items"]) == 1
    error = refused(api.microvms.create_microvm_image, **{**arguments, "name": "api-twice"})
    assert error.response["Error"]["Code"] in ("ConflictException", "ValidationException")
    assert not api.microvms.list_microvm_images(nameFilter="api-twice")["items"]


def test_unknown_members_are_ignored(daemon, api, bad_uri):
    body = {
        "name": "api-unknown-members",
        "baseImageArn": BASE_IMAGE,
        "buildRoleArn": ROLE,
        "codeArtifact": {"uri": bad_uri},
        "aMemberOfNextYear": {"deep": [1, 2]},
        "description": None,
    }
    answer = raw(daemon, "POST", "/2025-09-09/microvm-images", body)
    assert answer.status_code == 201 and "aMemberOfNextYear" not in answer.json()
    api.wait_for_image(answer.json()["imageArn"])


def test_what_is_no_request_of_the_api_is_refused_in_its_form(daemon):
    for method, path, body, expected, name in (
        ("POST", "/2025-09-09/microvm-images", {"name": 7}, 400, "ValidationException"),
        ("POST", "/2025-09-09/microvm-images", ["no", "object"], 400, "ValidationException"),
        ("GET", "/2025-09-09/microvm-images?maxResults=many", None, 400, "ValidationException"),
        ("GET", "/2025-09-09/microvm-images?maxResults=0", None, 400, "ValidationException"),
        ("GET", "/2025-09-09/nothing", None, 404, "UnknownOperationException"),
        ("PUT", "/2025-09-09/microvms", {}, 404, "UnknownOperationException"),
    ):
        answer = raw(daemon, method, path, body)
        assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (expected, name), (path, answer.text)
        assert answer.json()["message"]


def test_tags_are_set_listed_and_removed(api, daemon, rows):
    arn = rows[1]
    answer = api.microvms.tag_resource(Resource=arn, Tags={"team": "a b", "row": "changed"})
    assert status(answer) == 204
    assert api.microvms.list_tags(Resource=arn)["Tags"] == {"team": "a b", "row": "changed"}
    assert api.microvms.get_microvm_image(imageIdentifier=arn)["tags"] == {"team": "a b", "row": "changed"}
    assert status(api.microvms.untag_resource(Resource=arn, TagKeys=["row", "never-there"])) == 204
    assert api.microvms.list_tags(Resource=arn)["Tags"] == {"team": "a b"}
    error = refused(api.microvms.tag_resource, Resource=arn, Tags={f"key-{n}": "x" for n in range(50)})
    assert isinstance(error, api.microvms.exceptions.InvalidParameterValueException)
    assert api.microvms.list_tags(Resource=arn)["Tags"] == {"team": "a b"}


def test_versions_are_made_switched_and_removed(api, rows, bad_uri):
    arn = rows[2]
    selection = {"imageIdentifier": arn}
    last = refused(api.microvms.delete_microvm_image_version, **selection, imageVersion="1.0")
    assert "last version" in last.response["Error"]["Message"]
    configuration = {"baseImageArn": BASE_IMAGE, "buildRoleArn": ROLE, "codeArtifact": {"uri": bad_uri}}
    updated = api.microvms.update_microvm_image(**selection, **configuration, description="second")
    assert (status(updated), updated["imageVersion"], updated["state"]) == (200, "2.0", "UPDATING")
    assert updated["resources"] == [{"minimumMemoryInMiB": 2048}]
    assert api.wait_for_image(arn)["state"] == "UPDATE_FAILED"
    versions = api.microvms.list_microvm_image_versions(**selection)["items"]
    assert [(v["imageVersion"], v.get("description")) for v in versions] == [("2.0", "second"), ("1.0", None)]
    assert api.microvms.get_microvm_image(**selection)["latestFailedImageVersion"] == "2.0"
    error = refused(api.microvms.update_microvm_image_version, **selection, imageVersion="2.0", status="ACTIVE")
    assert isinstance(error, api.microvms.exceptions.ValidationException)
    removed = api.microvms.delete_microvm_image_version(**selection, imageVersion="1.0")
    assert (removed["imageVersion"], removed["state"]) == ("1.0", "DELETING")

    def versions_left():
        items = api.microvms.list_microvm_image_versions(**selection)["items"]
        return [item["imageVersion"] for item in items]

    wait_for("the version removed", lambda: versions_left() == ["2.0"], 30)
    api.wait_for_image(arn)
    again = api.microvms.delete_microvm_image_version(**selection, imageVersion="1.0")
    assert again["state"] == "DELETED"


def test_a_deleted_image_is_gone_and_its_deletion_repeats(api, bad_uri):
    arn = api.create_image("api-deleted", bad_uri)["imageArn"]
    api.wait_for_image(arn)
    deleted = api.microvms.delete_microvm_image(imageIdentifier=arn)
    assert (status(deleted), deleted["imageIdentifier"], deleted["state"]) == (200, arn, "DELETING")

    def gone():
        return arn not in [item["imageArn"] for item in api.microvms.list_microvm_images(nameFilter="api-deleted")["items"]]

    wait_for("the image removed", gone, 30)
    assert api.microvms.delete_microvm_image(imageIdentifier=arn)["state"] == "DELETED"
    error = refused(api.microvms.get_microvm_image, imageIdentifier=arn)
    assert isinstance(error, api.microvms.exceptions.ResourceNotFoundException)
