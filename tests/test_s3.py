"""The embedded object store, as the AWS CLI and boto3 use it; who may not."""

import datetime
import os
import subprocess

import boto3
import botocore.exceptions
import pytest
import requests

from support.clients import REGION, Api


def aws(daemon, *arguments, check=True):
    command = ["aws", *arguments]
    environment = {**os.environ, **daemon.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=check, timeout=120)


def test_the_cli_makes_copies_lists_and_removes(daemon, tmp_path):
    small, large = tmp_path / "small.txt", tmp_path / "large.bin"
    small.write_text("hello")
    # Beyond the CLI's threshold of 8 MiB: a multipart upload.
    large.write_bytes(os.urandom(20 * 1024 * 1024))
    aws(daemon, "s3", "mb", "s3://apps")
    aws(daemon, "s3", "cp", str(small), "s3://apps/some/small.txt")
    aws(daemon, "s3", "cp", str(large), "s3://apps/large.bin")
    listing = aws(daemon, "s3", "ls", "--recursive", "s3://apps").stdout
    assert "some/small.txt" in listing and f"{large.stat().st_size} large.bin" in listing
    back = tmp_path / "back.bin"
    aws(daemon, "s3", "cp", "s3://apps/large.bin", str(back))
    assert back.read_bytes() == large.read_bytes()
    aws(daemon, "s3", "rm", "--recursive", "s3://apps")
    aws(daemon, "s3", "rb", "s3://apps")
    assert "apps" not in aws(daemon, "s3", "ls").stdout


def refusal(call):
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        call()
    return refused.value.response["Error"]["Code"], refused.value.response["ResponseMetadata"]["HTTPStatusCode"]


def client(daemon, service, **credentials):
    credentials = {**Api.credentials(daemon), **credentials}
    return boto3.client(service, endpoint_url=daemon.endpoint, region_name=REGION, **credentials)


def test_wrong_credentials_get_the_right_error(daemon, api):
    stranger = client(daemon, "s3", aws_access_key_id="AKIAIOSFODNN7EXAMPLE")
    assert refusal(stranger.list_buckets) == ("InvalidAccessKeyId", 403)
    forger = client(daemon, "s3", aws_secret_access_key="x" * 40)
    assert refusal(forger.list_buckets) == ("SignatureDoesNotMatch", 403)
    stranger = client(daemon, "lambda-microvms", aws_access_key_id="AKIAIOSFODNN7EXAMPLE")
    assert refusal(stranger.list_microvms) == ("UnrecognizedClientException", 403)
    forger = client(daemon, "lambda-microvms", aws_secret_access_key="x" * 40)
    assert refusal(forger.list_microvms) == ("InvalidSignatureException", 403)


def test_a_skewed_clock_is_told_so(daemon, monkeypatch):
    import botocore.auth
    import botocore.compat

    def hour_ago():
        return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) - datetime.timedelta(hours=1)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", hour_ago)
    assert refusal(client(daemon, "s3").list_buckets) == ("RequestTimeTooSkewed", 403)
    code, status = refusal(client(daemon, "lambda-microvms").list_microvms)
    assert (code, status) == ("InvalidSignatureException", 403)


def test_a_tampered_body_is_refused(daemon):
    from botocore.auth import S3SigV4Auth, SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    keys = Api.credentials(daemon)
    credentials = Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"])
    client(daemon, "s3").create_bucket(Bucket="tampered")
    put = AWSRequest("PUT", f"{daemon.endpoint}/tampered/key", data=b"honest")
    S3SigV4Auth(credentials, "s3", REGION).add_auth(put)
    answer = requests.put(put.url, data=b"forged", headers=dict(put.headers), timeout=30)
    assert answer.status_code == 400 and "XAmzContentSHA256Mismatch" in answer.text
    post = AWSRequest(
        "POST",
        f"{daemon.endpoint}/2025-09-09/microvms",
        data=b'{"imageIdentifier":"honest"}',
        headers={"Content-Type": "application/json"},
    )
    SigV4Auth(credentials, "lambda", REGION).add_auth(post)
    answer = requests.post(post.url, data=b'{"imageIdentifier":"forged"}', headers=dict(post.headers), timeout=30)
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (403, "InvalidSignatureException")


def test_an_anonymous_request_is_refused(daemon):
    answer = requests.get(f"{daemon.endpoint}/2025-09-09/microvms", timeout=30)
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (403, "MissingAuthenticationTokenException")
    assert requests.get(f"{daemon.endpoint}/apps", timeout=30).status_code == 403


def test_the_caller_is_told_its_account(daemon):
    assert client(daemon, "sts").get_caller_identity()["Account"] == "000000000000"
