"""What tests do again and again with the API: make an image, run a MicroVM, ask its endpoint."""

import io
import os
import time
import zipfile
from pathlib import Path

import boto3
import httpx

from .daemon import REPOSITORY

REGION = "us-east-1"
ROLE = "arn:aws:iam::000000000000:role/colibri-test"
BASE_IMAGE = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
BUILD_SECONDS = 400
# Multiplies every bound of a wait: for hosts that are themselves emulated.
PATIENCE = float(os.environ.get("COLIBRI_TEST_PATIENCE", "1"))
HOOKS_ALL = {
    "port": 8080,
    "microvmImageHooks": {
        "ready": "ENABLED",
        "readyTimeoutInSeconds": 120,
        "validate": "ENABLED",
        "validateTimeoutInSeconds": 120,
    },
    "microvmHooks": {
        name: value
        for hook in ("run", "resume", "suspend", "terminate")
        for name, value in ((hook, "ENABLED"), (f"{hook}TimeoutInSeconds", 30))
    },
}
HOOKS_READY = {"port": 8080, "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 120}}
AUTO_RESUME = {"maxIdleDurationSeconds": 3600, "suspendedDurationSeconds": 3600, "autoResumeEnabled": True}


def wait_for(what, condition, seconds=60, interval=0.1):
    """Polls the condition, the only way to follow the API; returns its first true value."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(interval)


def zip_directory(directory, extra=None):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(Path(directory).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(directory))
        for name, text in (extra or {}).items():
            archive.writestr(name, text)
    return content.getvalue()


class Api:
    """The API of one daemon, through boto3."""

    def __init__(self, daemon):
        self.daemon = daemon
        session = boto3.Session(**self.credentials(daemon), region_name=REGION)
        self.session = session
        self.microvms = session.client("lambda-microvms", endpoint_url=daemon.endpoint)
        self.s3 = session.client("s3", endpoint_url=daemon.endpoint)

    @staticmethod
    def credentials(daemon):
        values = {}
        for line in (daemon.data / "credentials").read_text().splitlines():
            name, separator, value = line.partition("=")
            if separator:
                values[name.strip()] = value.strip()
        return {
            "aws_access_key_id": values["aws_access_key_id"],
            "aws_secret_access_key": values["aws_secret_access_key"],
        }

    def upload(self, key, content, bucket="artifacts"):
        if bucket not in [b["Name"] for b in self.s3.list_buckets()["Buckets"]]:
            self.s3.create_bucket(Bucket=bucket)
        self.s3.put_object(Bucket=bucket, Key=key, Body=content)
        return f"s3://{bucket}/{key}"

    def create_image(self, name, uri, **settings):
        settings.setdefault("resources", [{"minimumMemoryInMiB": 512}])
        return self.microvms.create_microvm_image(
            name=name, baseImageArn=BASE_IMAGE, buildRoleArn=ROLE, codeArtifact={"uri": uri}, **settings
        )

    def wait_for_image(self, arn):
        def settled():
            image = self.microvms.get_microvm_image(imageIdentifier=arn)
            return image if image["state"] not in ("CREATING", "UPDATING") else None

        return wait_for(f"{arn} built", settled, BUILD_SECONDS, 0.5)

    def build(self, name, directory, **settings):
        """Uploads a directory, builds it, and returns the ARN of the image."""
        uri = self.upload(f"{name}.zip", zip_directory(directory))
        arn = self.create_image(name, uri, **settings)["imageArn"]
        image = self.wait_for_image(arn)
        assert image["state"] == "CREATED", f"{self.build_reason(arn)}\n{self.daemon.tail()}"
        return arn

    def build_reason(self, arn, version="1.0"):
        builds = self.microvms.list_microvm_image_builds(imageIdentifier=arn, imageVersion=version)["items"]
        return builds[0].get("stateReason")

    def run(self, arn, wait=True, **settings):
        microvm = self.microvms.run_microvm(imageIdentifier=arn, **settings)
        if wait:
            self.wait_for_state(microvm["microvmId"], "RUNNING")
        return Microvm(self, microvm["microvmId"], microvm["endpoint"])

    def state(self, microvm_id):
        return self.microvms.get_microvm(microvmIdentifier=microvm_id)["state"]

    def wait_for_state(self, microvm_id, *wanted, seconds=90):
        def reached():
            found = self.microvms.get_microvm(microvmIdentifier=microvm_id)
            ended = found["state"] == "TERMINATED" and "TERMINATED" not in wanted
            assert not ended, f"{microvm_id} ended: {found.get('stateReason')}\n{self.daemon.tail()}"
            return found if found["state"] in wanted else None

        return wait_for(f"{microvm_id} {' or '.join(wanted)}", reached, seconds)

    def terminate_all(self):
        pages = self.microvms.get_paginator("list_microvms").paginate()
        live = [item["microvmId"] for page in pages for item in page["items"] if item["state"] != "TERMINATED"]
        for microvm_id in live:
            self.microvms.terminate_microvm(microvmIdentifier=microvm_id)
        for microvm_id in live:
            self.wait_for_state(microvm_id, "TERMINATED")


class Microvm:
    """One MicroVM, and its endpoint."""

    def __init__(self, api, microvm_id, endpoint):
        self.api, self.id, self.endpoint = api, microvm_id, endpoint
        self.token = self.mint()

    def mint(self, ports=({"allPorts": {}},), minutes=30):
        token = self.api.microvms.create_microvm_auth_token(
            microvmIdentifier=self.id, expirationInMinutes=minutes, allowedPorts=list(ports)
        )
        return token["authToken"]["X-aws-proxy-auth"]

    def client(self, http2=False, **settings):
        """A client whose requests carry the token; the name is resolved here, not by the system."""
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.api.daemon.ingress_port}",
            headers={"Host": self.endpoint, "X-aws-proxy-auth": self.token},
            verify=_tls(self.api.daemon.ca),
            http2=http2,
            timeout=90 * PATIENCE,
            **settings,
        )

    def get(self, path="/", expect=200, headers=None):
        with self.client() as client:
            response = client.get(path, headers=headers)
        assert response.status_code == expect, (path, response.status_code, response.headers, response.text)
        return response.json() if expect == 200 else response

    def suspend(self):
        self.api.microvms.suspend_microvm(microvmIdentifier=self.id)
        return self.api.wait_for_state(self.id, "SUSPENDED")

    def resume(self):
        self.api.microvms.resume_microvm(microvmIdentifier=self.id)
        return self.api.wait_for_state(self.id, "RUNNING")

    def terminate(self):
        self.api.microvms.terminate_microvm(microvmIdentifier=self.id)
        return self.api.wait_for_state(self.id, "TERMINATED")


def _tls(ca):
    import ssl

    return ssl.create_default_context(cafile=ca)


def example(name):
    return REPOSITORY / "examples" / name


def probe_application():
    return REPOSITORY / "tests" / "apps" / "probe"
