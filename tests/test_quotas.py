"""Quotas and rates as an operator sets them and a client meets them."""

import pytest
from botocore.config import Config

from support.clients import BASE_IMAGE, REGION, Api
from support.daemon import Daemon

SETTINGS = """
[quotas]
preset = "aws"
images = 0

[quotas.rates]
ListMicrovms = { per_second = 1, burst = 2 }
ListTags = { per_second = 1 }
"""


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("limited"), SETTINGS).start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def client(limited):
    """One that asks once: the SDKs repeat throttled calls by themselves."""
    session = Api(limited).session
    once = Config(retries={"total_max_attempts": 1})
    return session.client("lambda-microvms", endpoint_url=limited.endpoint, config=once)


def test_a_call_beyond_its_rate_is_throttled_as_the_model_has_it(client):
    with pytest.raises(client.exceptions.ThrottlingException) as error:
        for _ in range(200):
            client.list_microvms()
    answer = error.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    assert answer["serviceCode"] == "lambda"
    # Another operation has a bucket of its own.
    client.list_microvm_images()


def test_the_front_end_of_tags_has_its_own_error(client):
    arn = f"arn:aws:lambda:{REGION}:000000000000:microvm-image:none"
    with pytest.raises(client.exceptions.TooManyRequestsException):
        for _ in range(200):
            with pytest.raises(client.exceptions.ResourceNotFoundException):
                client.list_tags(Resource=arn)


def test_a_quota_of_nothing_is_exceeded_by_the_first(client):
    with pytest.raises(client.exceptions.ServiceQuotaExceededException) as error:
        client.create_microvm_image(
            name="one",
            baseImageArn=BASE_IMAGE,
            buildRoleArn="arn:aws:iam::000000000000:role/build",
            codeArtifact={"uri": "s3://bucket/key"},
        )
    answer = error.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 402
    assert (answer["serviceCode"], answer["quotaCode"]) == ("lambda", "L-942E56BE")
    assert answer["resourceType"] == "MicroVMImage"
