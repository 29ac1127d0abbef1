"""The audit trail: every call and every change of state, without a secret."""

import json
import stat

import httpx
import pytest
from botocore.exceptions import ClientError

from support.clients import BASE_IMAGE, REGION, ROLE, Api, wait_for
from support.daemon import Daemon

SECRET = "hunter2-of-the-audit"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("audit"), "").start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def api(daemon):
    return Api(daemon)


def events(daemon):
    return [json.loads(line) for line in (daemon.data / "audit" / "audit.jsonl").read_text().splitlines()]


def event(daemon, request_id):
    """The event of a call: written a moment after its answer."""
    return wait_for(
        f"the event of {request_id}",
        lambda: next((one for one in events(daemon) if one.get("requestID") == request_id), None),
    )


def test_a_call_is_recorded_with_who_what_and_result_and_no_secret(daemon, api):
    api.s3.create_bucket(Bucket="audit")
    made = api.microvms.create_microvm_image(
        name="audited",
        baseImageArn=BASE_IMAGE,
        buildRoleArn=ROLE,
        codeArtifact={"uri": "s3://audit/none.zip"},
        environmentVariables={"PASSWORD": SECRET},
    )
    record = event(daemon, made["ResponseMetadata"]["RequestId"])
    assert (record["eventSource"], record["eventName"]) == ("lambda.amazonaws.com", "CreateMicrovmImage")
    assert record["userIdentity"]["type"] == "Root"
    assert record["userIdentity"]["accessKeyId"] == Api.credentials(daemon)["aws_access_key_id"]
    assert (record["awsRegion"], record["sourceIPAddress"]) == (REGION, "127.0.0.1")
    assert "Boto3" in record["userAgent"]
    assert record["requestParameters"]["environmentVariables"] == {"PASSWORD": "HIDDEN_DUE_TO_SECURITY_REASONS"}
    assert record["responseElements"]["imageArn"] == made["imageArn"]
    assert record["resources"][0]["ARN"] == made["imageArn"]
    assert (record["readOnly"], record["eventCategory"], record["managementEvent"]) == (False, "Management", True)
    # The build fails for want of its artifact: changes of state that follow from the call.
    failed = wait_for(
        "the failed build",
        lambda: [
            one
            for one in events(daemon)
            if one["eventName"] == "MicrovmImageStateChange"
            and one["serviceEventDetails"]["state"] == "CREATE_FAILED"
        ],
    )
    cause = failed[0]["serviceEventDetails"]["cause"]
    assert cause == {"type": "Request", "requestID": made["ResponseMetadata"]["RequestId"]}
    states = [
        one["serviceEventDetails"]["state"] for one in events(daemon) if one["eventName"].startswith("MicrovmImage")
    ]
    assert states == ["CREATING", "IN_PROGRESS", "FAILED", "CREATE_FAILED"]


def test_an_error_is_recorded_with_its_name_and_message(daemon, api):
    with pytest.raises(ClientError) as error:
        api.microvms.run_microvm(
            imageIdentifier=f"arn:aws:lambda:{REGION}:000000000000:microvm-image:none", runHookPayload=SECRET
        )
    record = event(daemon, error.value.response["ResponseMetadata"]["RequestId"])
    assert record["errorCode"] == "ResourceNotFoundException"
    assert "No active version" in record["errorMessage"]
    assert record["eventCategory"] == "Data" and record["responseElements"] is None
    assert record["requestParameters"]["runHookPayload"] == "HIDDEN_DUE_TO_SECURITY_REASONS"


def test_a_refused_signature_is_recorded_as_nobodys(daemon):
    authorization = (
        f"AWS4-HMAC-SHA256 Credential=AKIACLAIMED/20260101/{REGION}/lambda/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=00"
    )
    answer = httpx.get(f"{daemon.endpoint}/2025-09-09/microvms", headers={"authorization": authorization})
    assert answer.status_code in (400, 403)
    record = event(daemon, answer.headers["x-amzn-requestid"])
    assert record["userIdentity"] == {"type": "Unknown", "accessKeyId": "AKIACLAIMED"}
    assert (record["eventName"], record["errorCode"]) == ("ListMicrovms", answer.headers["x-amzn-errortype"])


def test_the_other_services_are_recorded_too(daemon, api):
    put = api.s3.put_object(Bucket="audit", Key="a/key", Body=b"x")
    record = event(daemon, put["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"])
    assert (record["eventSource"], record["eventName"]) == ("s3.amazonaws.com", "PutObject")
    assert record["requestParameters"] == {"bucketName": "audit", "key": "a/key"}
    assert (record["eventCategory"], record["userIdentity"]["type"]) == ("Data", "Root")
    logs = api.session.client("logs", endpoint_url=daemon.endpoint)
    read = logs.describe_log_groups()
    record = event(daemon, read["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"])
    assert (record["eventName"], record["readOnly"]) == ("DescribeLogGroups", True)
    sts = api.session.client("sts", endpoint_url=daemon.endpoint)
    who = sts.get_caller_identity()
    record = event(daemon, who["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"])
    assert (record["eventSource"], record["eventName"]) == ("sts.amazonaws.com", "GetCallerIdentity")


def test_a_temporary_key_is_recorded_without_its_secret_and_its_token(daemon, api):
    trust = {"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "000000000000"}}}
    declared = daemon.data.parent / "roles.json"
    declared.write_text(json.dumps({"roles": {"audited": {"trust": json.dumps(trust)}}}))
    daemon.iam("apply", declared)
    sts = api.session.client("sts", endpoint_url=daemon.endpoint)
    role = "arn:aws:iam::000000000000:role/audited"

    def assumed():
        try:
            return sts.assume_role(RoleArn=role, RoleSessionName="job")
        except ClientError:
            return None

    answer = wait_for("the daemon to know the role", assumed)
    record = event(daemon, answer["ResponseMetadata"]["RequestId"])
    assert record["eventName"] == "AssumeRole"
    key = answer["Credentials"]
    assert record["responseElements"] == {
        "assumedRoleUser": {
            "arn": answer["AssumedRoleUser"]["Arn"],
            "assumedRoleId": answer["AssumedRoleUser"]["AssumedRoleId"],
        },
        "credentials": {
            "accessKeyId": key["AccessKeyId"],
            "expiration": key["Expiration"].strftime("%Y-%m-%dT%H:%M:%SZ"),
            "sessionToken": "HIDDEN_DUE_TO_SECURITY_REASONS",
        },
    }
    text = (daemon.data / "audit" / "audit.jsonl").read_text()
    assert key["SecretAccessKey"] not in text and key["SessionToken"] not in text


def test_the_trail_is_its_owners_alone_and_holds_no_secret(daemon):
    trail = daemon.data / "audit"
    assert stat.S_IMODE(trail.stat().st_mode) == 0o700
    text = (trail / "audit.jsonl").read_text()
    assert stat.S_IMODE((trail / "audit.jsonl").stat().st_mode) == 0o600
    assert SECRET not in text
    assert Api.credentials(daemon)["aws_secret_access_key"] not in text
