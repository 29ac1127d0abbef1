"""Bad input never hurts: each ends in the documented error, with the daemon up and nothing left."""

import io
import zipfile

import pytest

from support.clients import HOOKS_READY, probe_application, wait_for, zip_directory


def archive(entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries:
            file.writestr(name, data)
    return content.getvalue()


def dockerfile(text):
    return archive([("Dockerfile", text)])


FROM = "FROM docker.io/library/debian:12-slim\n"


def link():
    entry = zipfile.ZipInfo("link")
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    return entry


CASES = {
    "bomb": (lambda: archive([("Dockerfile", FROM), ("zeros", b"\0" * (1 << 29))]), "ARCHIVE_INVALID"),
    "traversal": (lambda: archive([("Dockerfile", FROM), ("../../etc/cron.d/x", "x")]), "ARCHIVE_INVALID"),
    "absolute": (lambda: archive([("Dockerfile", FROM), ("/etc/cron.d/x", "x")]), "ARCHIVE_INVALID"),
    "link": (lambda: archive([("Dockerfile", FROM), (link(), "/etc/passwd")]), "ARCHIVE_INVALID"),
    "no-zip": (lambda: b"this is no archive", "ARCHIVE_INVALID"),
    "no-dockerfile": (lambda: archive([("app/Dockerfile", FROM)]), "ARCHIVE_DOCKERFILE_NOT_FOUND"),
    "failing-step": (lambda: dockerfile(FROM + "RUN echo the-cause >&2; exit 3\n"), "CONTAINER_BUILD_FAILED"),
    "unknown-instruction": (lambda: dockerfile(FROM + "FLY /away\n"), "CONTAINER_BUILD_FAILED"),
    "no-command": (lambda: dockerfile("FROM scratch\nCOPY Dockerfile /\n"), None),
    "no-such-program": (lambda: dockerfile(FROM + 'CMD ["/no/such/program"]\n'), "/no/such/program"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_artifact_fails_its_build_with_its_reason(api, daemon, case):
    make, expected = CASES[case]
    arn = api.create_image(f"bad-{case}", api.upload(f"{case}.zip", make()))["imageArn"]
    assert api.wait_for_image(arn)["state"] == "CREATE_FAILED"
    reason = api.build_reason(arn)
    assert reason and (expected is None or expected in reason), reason
    version = api.microvms.get_microvm_image_version(imageIdentifier=arn, imageVersion="1.0")
    assert (version["state"], version["status"]) == ("FAILED", "INACTIVE")
    with pytest.raises(api.microvms.exceptions.ResourceNotFoundException):
        api.microvms.run_microvm(imageIdentifier=arn)
    api.microvms.delete_microvm_image(imageIdentifier=arn)
    wait_for("image deleted", lambda: gone(api, arn), 30)
    assert daemon.machines() == []
    builds = daemon.data / "builds"
    assert not builds.exists() or list(builds.iterdir()) == []


def gone(api, arn):
    try:
        api.microvms.get_microvm_image(imageIdentifier=arn)
        return False
    except api.microvms.exceptions.ResourceNotFoundException:
        return True


def test_a_missing_artifact_is_named(api):
    for uri, code in (("s3://artifacts/none.zip", "S3_NO_SUCH_KEY"), ("s3://nowhere/x.zip", "S3_NO_SUCH_BUCKET")):
        api.upload("placeholder", b"x")
        arn = api.create_image(f"missing-{code.lower().replace('_', '-')}", uri)["imageArn"]
        assert api.wait_for_image(arn)["state"] == "CREATE_FAILED"
        assert api.build_reason(arn).startswith(code)


def test_an_application_that_exits_at_once_fails_its_build(api):
    uri = api.upload("probe.zip", zip_directory(probe_application()))
    arn = api.create_image("exits", uri, environmentVariables={"EXIT_AT_ONCE": "3"}, hooks=HOOKS_READY)["imageArn"]
    assert api.wait_for_image(arn)["state"] == "CREATE_FAILED"
    assert "Container Stopped with Exit Code: 3" in api.build_reason(arn)


def test_a_guest_that_never_gets_ready_fails_its_build(api, daemon):
    uri = api.upload("probe.zip", zip_directory(probe_application()))
    hooks = {"port": 8080, "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 10}}
    arn = api.create_image("never", uri, environmentVariables={"NEVER_READY": "1"}, hooks=hooks)["imageArn"]
    assert api.wait_for_image(arn)["state"] == "CREATE_FAILED"
    assert api.build_reason(arn) == "Ready hook invocation timed out after PT10S"
    assert daemon.machines() == []
