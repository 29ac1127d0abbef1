"""What a guest finds at 169.254.169.254: itself, and what it may ask for itself."""

import json
from urllib.parse import urlencode

import boto3
from botocore.exceptions import ClientError

from support.clients import REGION, wait_for


def ask(microvm, method, path, body="", token="yes"):
    query = {"method": method, "path": path, "body": body, "token": token}
    return microvm.get(f"/metadata?{urlencode(query)}")


def test_a_guest_learns_who_it_is_with_a_token_only(microvm, probe_image):
    assert ask(microvm, "GET", "/colibri/v1/identity", token="no")["status"] == 401
    found = ask(microvm, "GET", "/colibri/v1/identity")
    about = json.loads(found["body"])
    assert (found["status"], about["microvmId"], about["imageArn"]) == (200, microvm.id, probe_image)
    assert ask(microvm, "GET", "/latest/meta-data/placement/region")["body"] == "us-east-1"
    assert ask(microvm, "GET", "/latest/meta-data/iam/security-credentials/")["status"] == 404


def test_a_guest_has_itself_suspended_and_the_next_request_wakes_it(api, microvm):
    with microvm.client() as client:
        # The suspension may cut this request's own answer.
        client.get("/metadata?method=POST&path=/colibri/v1/suspend")
    api.wait_for_state(microvm.id, "SUSPENDED")
    assert microvm.get("/metadata-said")["status"] == 202
    visit = microvm.get("/")
    assert visit["hooks"]["suspend"] == 1 and visit["hooks"]["resume"] == 1
    assert ask(microvm, "GET", "/colibri/v1/identity")["status"] == 200, "after a wake too"


CREDENTIALS = "/latest/meta-data/iam/security-credentials/"


def test_a_guest_has_the_credentials_of_the_role_that_it_was_run_with(daemon, api, probe_image, tmp_path):
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    rights = {"Effect": "Allow", "Action": "lambda:ListMicrovms", "Resource": "*"}
    document = {
        "trust": json.dumps({"Version": "2012-10-17", "Statement": trust}),
        "inline": {"own": json.dumps({"Version": "2012-10-17", "Statement": rights})},
    }
    declared = tmp_path / "roles.json"
    declared.write_text(json.dumps({"roles": {"worker": document}}))
    daemon.iam("apply", declared)
    microvm = api.run(probe_image, executionRoleArn="arn:aws:iam::000000000000:role/worker")
    try:
        assert ask(microvm, "GET", CREDENTIALS)["body"] == "execution_role"
        assert ask(microvm, "GET", f"{CREDENTIALS}execution_role", token="no")["status"] == 401

        def given():
            found = json.loads(ask(microvm, "GET", f"{CREDENTIALS}execution_role")["body"])
            return found if found["Code"] == "Success" else None

        key = wait_for("the daemon to know the role", given)
        session = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], key["Token"], region_name=REGION)
        who = session.client("sts", endpoint_url=daemon.endpoint).get_caller_identity()["Arn"]
        assert who == f"arn:aws:sts::000000000000:assumed-role/worker/{microvm.id}"
        session.client("lambda-microvms", endpoint_url=daemon.endpoint).list_microvms()
        try:
            session.client("logs", endpoint_url=daemon.endpoint).describe_log_groups()
            raise AssertionError("the role may not do that")
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDeniedException"
        assert json.loads(ask(microvm, "GET", f"{CREDENTIALS}execution_role")["body"]) == key
        trail = (daemon.data / "audit" / "audit.jsonl").read_text()
        assert key["SecretAccessKey"] not in trail and key["Token"] not in trail
        given = [json.loads(line) for line in trail.splitlines() if '"AssumeRole"' in line]
        [record] = [one for one in given if one["requestParameters"]["roleSessionName"] == microvm.id]
        assert record["userIdentity"] == {"type": "AWSService", "invokedBy": "lambda.amazonaws.com"}
        assert record["responseElements"]["credentials"]["accessKeyId"] == key["AccessKeyId"]
    finally:
        microvm.terminate()
