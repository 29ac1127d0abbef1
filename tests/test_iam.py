"""Who may do what, with boto3 and the AWS CLI, on a daemon of its own: users and roles made by
`colibri iam` beside the running daemon, refusals in each service's words, temporary keys."""

import json
import re
import sqlite3
import subprocess

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.clients import REGION, wait_for
from support.daemon import Daemon

ACCOUNT = "000000000000"
IMAGE = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:hello"
UNKNOWN = "microvm-00000000-0000-4000-8000-000000000000"
ANYONE_HERE = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": ACCOUNT}},
}


def allow(action, resource="*", **more):
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


class Account:
    """One daemon's users and roles."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.iam = daemon.iam

    def user(self, name, *statements):
        """A user with these rights, as a session of boto3."""
        self.iam("user", "create", name)
        if statements:
            self.iam("policy", "put", "own", "-", "--user", name, text=policy(*statements))
        lines = self.iam("access-key", "create", "--user", name).splitlines()
        values = dict(line.split(" = ") for line in lines[1:])
        client = self.client(values, "sts")
        arn = f"arn:aws:iam::{ACCOUNT}:user/{name}"
        wait_for("the daemon to know the key", lambda: arn == quiet(client.get_caller_identity).get("Arn"))
        return values

    def client(self, key, service):
        version = "s3v4" if service == "s3" else None
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.daemon.endpoint,
            config=Config(
                retries={"total_max_attempts": 1}, signature_version=version, s3={"addressing_style": "path"}
            ),
            **key,
        )

    def root(self, service):
        lines = (self.daemon.data / "credentials").read_text().splitlines()
        values = dict(line.split(" = ") for line in lines[1:] if " = " in line)
        return self.client(values, service)


def quiet(call):
    try:
        return call()
    except ClientError:
        return {}


def refused(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response
    return error["Error"]["Code"], error["Error"]["Message"], error["ResponseMetadata"]["HTTPStatusCode"]


def session(answer):
    credentials = answer["Credentials"]
    return {
        "aws_access_key_id": credentials["AccessKeyId"],
        "aws_secret_access_key": credentials["SecretAccessKey"],
        "aws_session_token": credentials["SessionToken"],
    }


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    directory = tmp_path_factory.mktemp("iam")
    declared = directory / "declared.json"
    declared.write_text(json.dumps({"users": {"of-the-settings": {"inline": {"own": policy(allow("logs:*"))}}}}))
    daemon = Daemon(directory, f'iam_file = "{declared}"\n').start()
    yield Account(daemon)
    daemon.stop()


def test_a_user_without_rights_is_refused_in_each_services_words(account):
    key = account.user("nobody")
    lambda_, s3, logs = (account.client(key, name) for name in ("lambda-microvms", "s3", "logs"))
    who = f"User: arn:aws:iam::{ACCOUNT}:user/nobody is not authorized to perform: "
    for call, arguments, denied in [
        (lambda_.list_microvms, {}, (403, "AccessDeniedException", "lambda:ListMicrovms", "*")),
        (
            lambda_.get_microvm,
            {"microvmIdentifier": UNKNOWN},
            (403, "AccessDeniedException", "lambda:GetMicrovm", f"{IMAGE.replace('hello', '*')}"),
        ),
        (
            lambda_.get_microvm_image,
            {"imageIdentifier": IMAGE},
            (403, "AccessDeniedException", "lambda:GetMicrovmImage", IMAGE),
        ),
        (s3.list_buckets, {}, (403, "AccessDenied", "s3:ListAllMyBuckets", "arn:aws:s3:::*")),
        (
            s3.get_object,
            {"Bucket": "apps", "Key": "a/b"},
            (403, "AccessDenied", "s3:GetObject", "arn:aws:s3:::apps/a/b"),
        ),
        (
            logs.filter_log_events,
            {"logGroupName": "/x"},
            (400, "AccessDeniedException", "logs:FilterLogEvents", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/x"),
        ),
    ]:
        status, name, action, resource = denied
        why = f"{who}{action} on resource: {resource} because no identity-based policy allows the {action} action"
        assert refused(call, **arguments) == (name, why, status)
    assert account.client(key, "sts").get_caller_identity()["UserId"].startswith("AIDA")


def test_every_operation_of_s3_needs_a_right_of_its_own(account):
    root = account.root("s3")
    root.create_bucket(Bucket="rights")
    root.put_object(Bucket="rights", Key="own/a", Body=b"a")
    root.put_object(Bucket="rights", Key="other/a", Body=b"a")
    own = "arn:aws:s3:::rights/own/*"
    bucket = "arn:aws:s3:::rights"
    prefix = {"StringLike": {"s3:prefix": "own/*"}}
    statements = [
        allow(["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:GetObjectTagging"], own),
        allow(["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"], own),
        allow("s3:ListBucket", bucket, Condition=prefix),
        allow(["s3:GetBucketLocation", "s3:ListBucketMultipartUploads"], bucket),
    ]
    s3 = account.client(account.user("writer", *statements), "s3")
    nobody = account.client(account.user("reader-of-nothing"), "s3")
    at = {"Bucket": "rights"}
    upload = s3.create_multipart_upload(**at, Key="own/parts")["UploadId"]
    other = root.create_multipart_upload(**at, Key="other/parts")["UploadId"]
    part = {"PartNumber": 1}
    done = {"MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "x"}]}}

    def of(name, key, **more):
        return (name, {**at, "Key": f"own/{key}", **more}, {**at, "Key": f"other/{key}", **more})

    calls = [
        of("put_object", "b", Body=b"b"),
        of("get_object", "a"),
        of("head_object", "a"),
        of("get_object_tagging", "a"),
        of("copy_object", "c", CopySource="rights/own/a"),
        of("delete_object", "b"),
        of("create_multipart_upload", "more"),
        ("upload_part", {**at, "Key": "own/parts", "UploadId": upload, "Body": b"p", **part},
         {**at, "Key": "other/parts", "UploadId": other, "Body": b"p", **part}),
        ("upload_part_copy", {**at, "Key": "own/parts", "UploadId": upload, "CopySource": "rights/own/a", **part},
         {**at, "Key": "own/parts", "UploadId": upload, "CopySource": "rights/other/a", **part}),
        ("list_parts", {**at, "Key": "own/parts", "UploadId": upload},
         {**at, "Key": "other/parts", "UploadId": other}),
        ("complete_multipart_upload", None, {**at, "Key": "other/parts", "UploadId": other, **done}),
        ("abort_multipart_upload", {**at, "Key": "own/parts", "UploadId": upload},
         {**at, "Key": "other/parts", "UploadId": other}),
        ("list_objects", {**at, "Prefix": "own/"}, {**at, "Prefix": "other/"}),
        ("list_objects_v2", {**at, "Prefix": "own/"}, at),
        ("list_multipart_uploads", at, {"Bucket": "elsewhere"}),
        ("get_bucket_location", at, {"Bucket": "elsewhere"}),
        ("get_bucket_versioning", None, at),
        ("head_bucket", None, at),
        ("delete_bucket", None, at),
        ("create_bucket", None, {"Bucket": "new"}),
        ("list_buckets", None, {}),
        ("copy_object", None, {**at, "Key": "own/stolen", "CopySource": "rights/other/a"}),
    ]
    for name, allowed, forbidden in calls:
        if allowed is not None:
            getattr(s3, name)(**allowed)
            assert refused(getattr(nobody, name), **allowed)[2] == 403, name
        code, _, status = refused(getattr(s3, name), **forbidden)
        assert (status, code in ("AccessDenied", "403")) == (403, True), name
    both = {"Delete": {"Objects": [{"Key": "own/c"}, {"Key": "other/a"}]}}
    deleted = s3.delete_objects(**at, **both)
    assert [one["Key"] for one in deleted["Deleted"]] == ["own/c"]
    assert [(one["Key"], one["Code"]) for one in deleted["Errors"]] == [("other/a", "AccessDenied")]
    assert refused(nobody.delete_objects, **at, **both)[2] == 403
    root.head_object(**at, Key="other/a")


def test_rights_on_some_images_are_none_on_others_and_roles_must_be_passed(account):
    role = f"arn:aws:iam::{ACCOUNT}:role/build"
    statements = [
        allow("lambda:*", [IMAGE, f"{IMAGE}:*"]),
        {"Sid": "KeepIt", "Effect": "Deny", "Action": "lambda:Delete*", "Resource": "*"},
    ]
    microvms = account.client(account.user("owner", *statements), "lambda-microvms")
    assert refused(microvms.get_microvm_image, imageIdentifier=IMAGE)[0] == "ResourceNotFoundException"
    other = IMAGE.replace("hello", "other")
    assert refused(microvms.get_microvm_image, imageIdentifier=other)[0] == "AccessDeniedException"
    code, message, _ = refused(microvms.delete_microvm_image, imageIdentifier=IMAGE)
    assert code == "AccessDeniedException"
    assert message.endswith("with an explicit deny in an identity-based policy")
    create = {
        "name": "hello",
        "baseImageArn": f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
        "buildRoleArn": role,
        "codeArtifact": {"uri": "s3://apps/hello.zip"},
    }
    for action, resource in [
        ("iam:PassRole", role),
        (
            "lambda:PassNetworkConnector",
            f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:INTERNET_EGRESS",
        ),
        ("s3:GetObject", "arn:aws:s3:::apps/hello.zip"),
    ]:
        missing = f"perform: {action} on resource: {resource} "
        wait_for(f"{action} to be all that is missing", lambda: missing in told(microvms, create))
        statements.append(allow(action, resource))
        account.iam("policy", "put", "own", "-", "--user", "owner", text=policy(*statements))
    wait_for("the image to be created", lambda: told(microvms, create) == "")


def told(microvms, create):
    """What stands against an image; nothing when it is made."""
    try:
        microvms.create_microvm_image(**create)
        return ""
    except ClientError as error:
        return error.response["Error"]["Message"]


def test_a_role_is_assumed_with_boto3_and_the_cli_and_its_key_works_everywhere(account, tmp_path):
    trust = tmp_path / "trust.json"
    trust.write_text(json.dumps(ANYONE_HERE))
    account.iam("role", "create", "ci", "--trust", str(trust))
    rights = [allow(["lambda:ListMicrovms", "s3:*", "logs:*"])]
    account.iam("policy", "put", "own", "-", "--role", "ci", text=policy(*rights))
    role = f"arn:aws:iam::{ACCOUNT}:role/ci"
    key = account.user("assumer", allow("sts:AssumeRole", role))
    sts = account.client(key, "sts")
    asked = {"RoleArn": role, "RoleSessionName": "job"}
    temporary = session(sts.assume_role(**asked, DurationSeconds=900))
    assert temporary["aws_access_key_id"].startswith("ASIA")
    assert account.client(temporary, "sts").get_caller_identity()["Arn"] == (
        f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/job"
    )
    account.client(temporary, "lambda-microvms").list_microvms()
    account.client(temporary, "logs").describe_log_groups()
    s3 = account.client(temporary, "s3")
    s3.create_bucket(Bucket="by-a-session")
    s3.put_object(Bucket="by-a-session", Key="a", Body=b"a")
    at = {"Bucket": "by-a-session", "Key": "a"}
    assert s3.get_object(**at)["Body"].read() == b"a"
    url = s3.generate_presigned_url("get_object", Params=at)
    assert httpx.get(url).text == "a"
    without_token = re.sub("X-Amz-Security-Token=[^&]*&?", "", url)
    assert without_token != url and httpx.get(without_token).status_code == 403

    forged = {**temporary, "aws_session_token": "x" + temporary["aws_session_token"][1:]}
    without = {name: value for name, value in temporary.items() if name != "aws_session_token"}
    for wrong in (forged, without):
        assert refused(account.client(wrong, "lambda-microvms").list_microvms)[0] == "UnrecognizedClientException"
        assert refused(account.client(wrong, "s3").list_buckets)[0] == "InvalidToken"

    less = json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:ListAllMyBuckets")]})
    narrow = session(sts.assume_role(**asked, Policy=less))
    account.client(narrow, "s3").list_buckets()
    code, message, _ = refused(account.client(narrow, "lambda-microvms").list_microvms)
    assert message.endswith("because no session policy allows the lambda:ListMicrovms action"), code

    other = account.user("stranger")
    code, message, status = refused(account.client(other, "sts").assume_role, **asked)
    assert (code, status) == ("AccessDenied", 403)
    assert message == (
        f"User: arn:aws:iam::{ACCOUNT}:user/stranger is not authorized to perform: sts:AssumeRole on resource: {role}"
    )
    asked_wrongly = {**asked, "DurationSeconds": 43200}
    assert refused(sts.assume_role, **asked_wrongly)[0] == "ValidationError"
    assert refused(sts.assume_role, **asked, Policy="{}")[0] == "MalformedPolicyDocument"

    # The CLI assumes the role by itself, from its configuration file.
    (tmp_path / "credentials").write_text(
        "[assumer]\n" + "".join(f"{name} = {value}\n" for name, value in key.items())
    )
    (tmp_path / "config").write_text(
        f"[profile ci]\nregion = {REGION}\nrole_arn = {role}\nsource_profile = assumer\n"
        f"[profile assumer]\nregion = {REGION}\n"
    )
    environment = {
        **account.daemon.environment,
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "HOME": str(tmp_path),
    }

    def aws(*arguments, profile="ci"):
        command = ["aws", "--profile", profile, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    assert "assumed-role/ci/" in aws("sts", "get-caller-identity").stdout
    assert "by-a-session" in aws("s3", "ls").stdout
    assert aws("lambda-microvms", "list-microvms").returncode == 0
    denied = aws("lambda-microvms", "list-microvms", profile="assumer")
    assert denied.returncode != 0 and "(AccessDeniedException)" in denied.stderr
    assert "lambda:ListMicrovms on resource: *" in denied.stderr


def test_a_key_that_has_ended_or_is_disabled_is_refused_in_each_services_words(account):
    lasting = account.user("ending", allow("*"))
    temporary = session(account.client(lasting, "sts").get_session_token(DurationSeconds=900))
    s3 = account.client(temporary, "s3")
    url = s3.generate_presigned_url("list_buckets")

    def refusals(key):
        calls = [("lambda-microvms", "list_microvms"), ("logs", "describe_log_groups")]
        calls += [("sts", "get_caller_identity"), ("s3", "list_buckets")]
        found = [refused(getattr(account.client(key, service), call)) for service, call in calls]
        return [(code, status) for code, _, status in found]

    # No session is shorter than a quarter of an hour: this one's end is moved in the store.
    with sqlite3.connect(account.daemon.data / "state.db", timeout=30) as store:
        moved = store.execute(
            "UPDATE iam_sessions SET expires_at = created_at WHERE access_key_id = ?",
            [temporary["aws_access_key_id"]],
        )
        assert moved.rowcount == 1
        store.execute("UPDATE iam_revision SET revision = revision + 1")
    api = account.client(temporary, "lambda-microvms")
    wait_for("the daemon to know of the end", lambda: quiet(api.list_microvms) == {})
    assert refusals(temporary) == [
        ("ExpiredTokenException", 403),
        ("ExpiredTokenException", 400),
        ("ExpiredToken", 403),
        ("ExpiredToken", 400),
    ]
    presigned = httpx.get(url)
    assert presigned.status_code == 400 and "<Code>ExpiredToken</Code>" in presigned.text

    account.iam("access-key", "disable", lasting["aws_access_key_id"])
    api = account.client(lasting, "lambda-microvms")
    wait_for("the daemon to know of the disabled key", lambda: quiet(api.list_microvms) == {})
    assert refusals(lasting) == [
        ("UnrecognizedClientException", 403),
        ("UnrecognizedClientException", 400),
        ("InvalidClientTokenId", 403),
        ("InvalidAccessKeyId", 403),
    ]


def test_a_users_temporary_key_is_the_user_with_an_end(account):
    key = account.user("temporary", allow("lambda:ListMicrovms"))
    answer = account.client(key, "sts").get_session_token(DurationSeconds=900)
    temporary = session(answer)
    account.client(temporary, "lambda-microvms").list_microvms()
    assert account.client(temporary, "sts").get_caller_identity()["Arn"].endswith(":user/temporary")
    assert refused(account.client(temporary, "sts").get_session_token)[0] == "AccessDenied"
    account.iam("session", "delete", temporary["aws_access_key_id"])
    microvms = account.client(temporary, "lambda-microvms")
    wait_for("the session to be ended", lambda: quiet(microvms.list_microvms) == {})


def test_what_the_command_changes_the_daemon_notices(account):
    key = account.user("changing", allow("lambda:ListMicrovms"))
    microvms = account.client(key, "lambda-microvms")
    microvms.list_microvms()
    simulated = ("simulate", "--principal", "user/changing", "--action", "lambda:ListMicrovms")
    assert account.iam(*simulated) == "allowed by policy own, statement 1\n"
    account.iam("policy", "put", "own", "-", "--user", "changing", text=policy(allow("s3:*")))
    assert "no policy of the principal allows it" in account.iam(*simulated, code=1)
    wait_for("the right to be gone", lambda: quiet(microvms.list_microvms) == {})
    malformed = policy(allow("lambda:*", Condition={"StringIs": {"aws:username": "x"}}))
    told = account.iam("policy", "put", "own", "-", "--user", "changing", text=malformed, code=1)
    assert "`StringIs` is no condition operator that is known here" in told
    identifier = key["aws_access_key_id"]
    account.iam("access-key", "disable", identifier)
    sts = account.client(key, "sts")
    wait_for("the key to be disabled", lambda: quiet(sts.get_caller_identity) == {})
    assert refused(sts.get_caller_identity)[0] == "InvalidClientTokenId"
    assert f"{identifier} changing disabled" in account.iam("access-key", "list")
    assert "secret" not in account.iam("list").lower()


def test_conditions_know_where_a_call_comes_from(account):
    near = {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}
    far = {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}
    statements = [
        allow(["lambda:ListMicrovms", "s3:ListAllMyBuckets"], Condition=near),
        allow(["lambda:ListMicrovmImages", "s3:CreateBucket"], Condition=far),
    ]
    key = account.user("near", *statements)
    account.client(key, "lambda-microvms").list_microvms()
    account.client(key, "s3").list_buckets()
    assert refused(account.client(key, "lambda-microvms").list_microvm_images)[2] == 403
    assert refused(account.client(key, "s3").create_bucket, Bucket="far")[2] == 403


def test_a_file_declares_users_and_roles_and_declaring_it_again_changes_nothing(account, tmp_path):
    declared = tmp_path / "iam.toml"
    declared.write_text(
        """
[policies.run]
Version = "2012-10-17"
Statement = [{ Effect = "Allow", Action = "lambda:RunMicrovm", Resource = "*" }]

[users.declared]
policies = ["run"]

[roles.declared]
trust = '''{"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*"}}'''
policies = ["run"]
"""
    )
    assert "create user declared" in account.iam("apply", str(declared))
    assert account.iam("apply", str(declared)) == "nothing to change\n"
    shown = json.loads(account.iam("show", "role/declared"))
    assert (shown["policies"], shown["max_session_seconds"]) == (["run"], 3600)
    declared.write_text(declared.read_text().replace("RunMicrovm", "Run"))
    assert account.iam("apply", str(declared)) == "change policy run\n"
    of_the_settings = json.loads(account.iam("show", "user/of-the-settings"))
    assert of_the_settings["inline"]["own"]["Statement"][0]["Action"] == "logs:*"
    declared.write_text("[users.declared]\npolicies = ['missing']\n")
    assert "`missing`, which does not exist" in account.iam("apply", str(declared), code=1)
