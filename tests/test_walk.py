"""The walk of the README with the unmodified AWS CLI, word for word as a user types it."""

import json
import os
import subprocess

from support.clients import BASE_IMAGE, ROLE, example, wait_for, zip_directory


def test_the_walk_with_the_aws_cli(daemon, tmp_path):
    environment = {**os.environ, **daemon.environment}

    def aws(*arguments):
        run = subprocess.run(["aws", *arguments], env=environment, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, (arguments, run.stderr)
        return json.loads(run.stdout) if run.stdout.strip().startswith("{") else run.stdout

    def microvms(*arguments):
        return aws("lambda-microvms", *arguments)

    archive = tmp_path / "hello.zip"
    archive.write_bytes(zip_directory(example("flask-counter")))
    aws("s3", "mb", "s3://walk")
    aws("s3", "cp", str(archive), "s3://walk/hello.zip")
    bases = [item["imageArn"] for item in microvms("list-managed-microvm-images")["items"]]
    assert BASE_IMAGE in bases
    hooks = {
        "port": 9000,
        "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 120, "validate": "ENABLED", "validateTimeoutInSeconds": 120},
        "microvmHooks": {"run": "ENABLED", "runTimeoutInSeconds": 30},
    }
    created = microvms(
        "create-microvm-image", "--name", "hello", "--base-image-arn", BASE_IMAGE, "--build-role-arn", ROLE,
        "--code-artifact", "uri=s3://walk/hello.zip", "--hooks", json.dumps(hooks),
        "--resources", "minimumMemoryInMiB=512",
    )
    assert created["state"] == "CREATING" and created["imageVersion"] == "1.0"
    image = created["imageArn"]
    wait_for(
        "image created",
        lambda: microvms("get-microvm-image", "--image-identifier", image)["state"] == "CREATED",
        400,
        1,
    )
    builds = microvms("list-microvm-image-builds", "--image-identifier", image, "--image-version", "1.0")["items"]
    build = microvms(
        "get-microvm-image-build", "--image-identifier", image, "--image-version", "1.0",
        "--build-id", builds[0]["buildId"],
    )
    assert build["buildState"] == "SUCCESSFUL"
    assert all(size > 0 for size in build["snapshotBuild"].values()), build["snapshotBuild"]
    ran = microvms(
        "run-microvm", "--image-identifier", image, "--idle-policy",
        "maxIdleDurationSeconds=900,suspendedDurationSeconds=3600,autoResumeEnabled=true",
    )
    assert ran["state"] == "PENDING"
    identifier = ran["microvmId"]
    token = microvms(
        "create-microvm-auth-token", "--microvm-identifier", identifier, "--expiration-in-minutes", "30",
        "--allowed-ports", "port=8080",
    )["authToken"]["X-aws-proxy-auth"]

    def counter():
        # No wait before: the request is held until the machine answers.
        answer = subprocess.run(
            ["curl", "-sS", "--fail-with-body", "--cacert", daemon.ca, f"https://{ran['endpoint']}/",
             "-H", f"X-aws-proxy-auth: {token}"],
            capture_output=True, text=True, timeout=90,
        )
        assert answer.returncode == 0, (answer.stderr, answer.stdout)
        return json.loads(answer.stdout)["counter"]

    def reaches(state):
        found = lambda: microvms("get-microvm", "--microvm-identifier", identifier)["state"] == state
        wait_for(state, found, 60, 0.5)

    assert counter() == 1
    microvms("suspend-microvm", "--microvm-identifier", identifier)
    reaches("SUSPENDED")
    assert counter() == 2, "the request woke it, and its memory was there"
    microvms("suspend-microvm", "--microvm-identifier", identifier)
    reaches("SUSPENDED")
    microvms("resume-microvm", "--microvm-identifier", identifier)
    reaches("RUNNING")
    listed = microvms("list-microvms")["items"]
    assert identifier in [item["microvmId"] for item in listed]
    microvms("terminate-microvm", "--microvm-identifier", identifier)
    reaches("TERMINATED")
    microvms("delete-microvm-image", "--image-identifier", image)
