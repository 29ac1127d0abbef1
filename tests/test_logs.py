"""Logs of builds and applications, read with CloudWatch Logs' clients while they are written."""

import json
import os
import signal
import subprocess
import threading
import time

import botocore.exceptions
import pytest

from support.clients import REGION, wait_for, zip_directory

FROM = "FROM docker.io/library/debian:12-slim\n"
SLOW = FROM + "RUN echo first-words; sleep 8; echo last-words\n"
FAILING = FROM + "RUN echo the-cause >&2; exit 3\n"
LIVE_SECONDS = 30


@pytest.fixture(scope="module")
def logs(api):
    return api.session.client("logs", endpoint_url=api.daemon.endpoint)


def dockerfile(tmp_path, text):
    (tmp_path / "Dockerfile").write_text(text)
    return zip_directory(tmp_path)


def group_of(image):
    return f"/aws/lambda-microvms/{image}"


def messages(logs, group, **selection):
    """Every message of a group; none while there is no group yet."""
    try:
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group, **selection)
        return [event["message"] for page in pages for event in page["events"]]
    except logs.exceptions.ResourceNotFoundException:
        return []


def group_names(logs, prefix):
    pages = logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=prefix)
    return [group["logGroupName"] for page in pages for group in page["logGroups"]]


def test_a_builds_log_is_read_while_it_is_built(api, logs, tmp_path):
    uri = api.upload("log-live.zip", dockerfile(tmp_path, SLOW + 'CMD ["/no/such/program"]\n'))
    arn = api.create_image("log-live", uri)["imageArn"]
    group = group_of("log-live")
    wait_for("the step's first words", lambda: "first-words" in messages(logs, group), 120)
    assert "last-words" not in messages(logs, group)
    assert api.microvms.get_microvm_image(imageIdentifier=arn)["state"] == "CREATING"
    wait_for("the step's last words", lambda: "last-words" in messages(logs, group), 120)
    assert api.wait_for_image(arn)["state"] == "CREATE_FAILED"


def test_the_log_of_a_failed_build_ends_with_the_cause(api, logs, daemon, tmp_path):
    uri = api.upload("log-failed.zip", dockerfile(tmp_path, FAILING))
    arn = api.create_image("log-failed", uri)["imageArn"]
    assert api.wait_for_image(arn)["state"] == "CREATE_FAILED"
    group = group_of("log-failed")
    streams = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True)["logStreams"]
    page = logs.get_log_events(logGroupName=group, logStreamName=streams[0]["logStreamName"], limit=10)
    tail = [event["message"] for event in page["events"]]
    assert "the-cause" in tail and "CONTAINER_BUILD_FAILED" in tail[-1], tail
    assert messages(logs, group, filterPattern='"the-cause" -RUN') == ["the-cause"]
    # The image goes, its log stays.
    api.microvms.delete_microvm_image(imageIdentifier=arn)
    assert "the-cause" in messages(logs, group)


def test_what_an_application_prints_appears_in_the_stream_of_its_microvm(logs, microvm):
    microvm.get("/")
    group = group_of("probe")

    def streams():
        found = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True)
        return [stream for stream in found["logStreams"] if stream["logStreamName"].endswith(microvm.id)]

    [stream] = wait_for("the MicroVM's stream", streams, LIVE_SECONDS)
    name = stream["logStreamName"]
    assert name == time.strftime("%Y/%m/%d", time.gmtime(stream["creationTime"] / 1000)) + f"[1.0]{microvm.id}"
    selection = {"logGroupIdentifier": group_arn(group), "logStreamName": name, "startFromHead": True}

    def requests(**more):
        page = logs.get_log_events(**selection, **more)
        return page, [event["message"] for event in page["events"] if "GET / " in event["message"]]

    wait_for("the request's line", lambda: requests()[1], LIVE_SECONDS)
    page, _ = requests()
    again, _ = requests(nextToken=page["nextForwardToken"])
    assert again["nextForwardToken"] == page["nextForwardToken"] and again["events"] == []
    microvm.get("/")
    token = page["nextForwardToken"]
    wait_for("the next request's line", lambda: requests(nextToken=token)[1], LIVE_SECONDS)
    everything = logs.get_log_events(**selection)["events"]
    newest = logs.get_log_events(logGroupName=group, logStreamName=name, limit=1)
    assert newest["events"] == everything[-1:]
    before = logs.get_log_events(
        logGroupName=group, logStreamName=name, limit=1, nextToken=newest["nextBackwardToken"]
    )
    assert before["events"] == everything[-2:-1]


def group_arn(group):
    return f"arn:aws:logs:{REGION}:000000000000:log-group:{group}"


def test_nothing_is_written_where_logging_is_disabled(api, logs, probe_image, tmp_path):
    uri = api.upload("log-none.zip", dockerfile(tmp_path, FAILING))
    arn = api.create_image("log-none", uri, logging={"disabled": {}})["imageArn"]
    assert api.wait_for_image(arn)["state"] == "CREATE_FAILED"
    assert group_names(logs, group_of("log-none")) == []
    microvm = api.run(probe_image, logging={"disabled": {}})
    microvm.get("/")
    microvm.terminate()
    streams = logs.get_paginator("describe_log_streams").paginate(logGroupName=group_of("probe"))
    assert [s for page in streams for s in page["logStreams"] if microvm.id in s["logStreamName"]] == []


def test_a_chosen_group_and_stream_take_the_place_of_the_default_ones(api, logs, probe_image):
    chosen = {"cloudWatch": {"logGroup": "/mine/chosen", "logStream": "one/stream"}}
    microvm = api.run(probe_image, logging=chosen)
    microvm.get("/")
    wait_for("the request's line", lambda: any("GET / " in m for m in messages(logs, "/mine/chosen")), LIVE_SECONDS)
    microvm.terminate()
    streams = logs.describe_log_streams(logGroupName="/mine/chosen")["logStreams"]
    assert [stream["logStreamName"] for stream in streams] == ["one/stream"]


def follow(logs, group, until, seconds):
    """What `aws logs tail --follow` of the CLI's second version does: it filters from the newest time
    that it has seen, and tells by their ids which events of that time are new."""
    seen, start, deadline = {}, 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=group, startTime=start, interleaved=True
        )
        for event in (event for page in pages for event in page["events"]):
            assert event["timestamp"] >= start
            if event["eventId"] not in seen:
                seen[event["eventId"]] = event["message"]
                start = max(start, event["timestamp"])
        if until(seen.values()):
            return list(seen.values())
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {list(seen.values())[-20:]}")


def test_following_a_group_gives_every_event_once(api, logs, microvm):
    group = group_of("probe")
    names = [f"/missing-{number}" for number in range(20)]

    def ask():
        for name in names:
            microvm.get(name, expect=404)

    asking = threading.Thread(target=ask)
    asking.start()
    found = follow(logs, group, lambda seen: any(names[-1] + " " in message for message in seen), 60)
    asking.join()
    for name in names:
        assert len([message for message in found if f"{name} " in message]) == 1, name


def aws(daemon, *arguments):
    command = ["aws", "logs", *arguments]
    environment = {**os.environ, **daemon.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_cli_prints_live_what_an_application_prints(daemon, microvm):
    """`start-live-tail` is what the CLI's first version has; `logs tail` is in its second only."""
    command = ["aws", "logs", "start-live-tail", "--log-group-identifiers", group_arn(group_of("probe"))]
    environment = {**os.environ, **daemon.environment, "AWS_DISABLE_HOST_PREFIX_INJECTION": "true"}
    tail = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    # A CLI that prints nothing is ended, which ends the reading of its lines.
    watchdog = threading.Timer(LIVE_SECONDS * 2, os.killpg, (tail.pid, signal.SIGKILL))
    watchdog.start()
    finished = threading.Event()

    def ask():
        number = 0
        while not finished.wait(0.5):
            microvm.get(f"/missing-live-{number}", expect=404)
            number += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        printed = []
        for line in tail.stdout:
            printed.append(line)
            if len([line for line in printed if "/missing-live-" in line]) >= 5:
                break
        else:
            raise AssertionError(f"the CLI ended: {printed}")
    finally:
        finished.set()
        asking.join()
        watchdog.cancel()
        os.killpg(tail.pid, signal.SIGKILL)
        tail.wait()
        tail.stdout.close()
    numbers = [int(line.split("/missing-live-")[1].split()[0]) for line in printed if "/missing-live-" in line]
    assert numbers == list(range(numbers[0], numbers[0] + 5))


def test_the_cli_lists_and_reads(daemon, logs, microvm):
    microvm.get("/")
    group = group_of("probe")
    wait_for("the request's line", lambda: any("GET / " in message for message in messages(logs, group)))
    described = json.loads(aws(daemon, "describe-log-groups", "--log-group-name-prefix", group))["logGroups"]
    assert [(found["logGroupName"], found["logGroupArn"]) for found in described] == [(group, group_arn(group))]
    assert described[0]["storedBytes"] > 0 and described[0]["retentionInDays"] == 30
    listed = aws(daemon, "describe-log-streams", "--log-group-name", group, "--query", "logStreams[].logStreamName")
    [stream] = [name for name in json.loads(listed) if name.endswith(microvm.id)]
    arguments = ("--log-group-name", group, "--log-stream-name", stream, "--start-from-head")
    events = json.loads(aws(daemon, "get-log-events", *arguments))["events"]
    assert any("GET / " in event["message"] for event in events)
    arguments = ("--log-group-name", group, "--log-stream-names", stream, "--filter-pattern", '"GET / "')
    filtered = json.loads(aws(daemon, "filter-log-events", *arguments))["events"]
    assert filtered and {event["logStreamName"] for event in filtered} == {stream}


def test_groups_are_made_kept_and_removed(daemon, logs):
    for name in ("/own/b", "/own/a", "/own/c"):
        logs.create_log_group(logGroupName=name)
    logs.put_retention_policy(logGroupName="/own/a", retentionInDays=7)
    pages = logs.get_paginator("describe_log_groups").paginate(
        logGroupNamePrefix="/own/", PaginationConfig={"PageSize": 1}
    )
    groups = [group for page in pages for group in page["logGroups"]]
    assert [(g["logGroupName"], g["retentionInDays"]) for g in groups] == [("/own/a", 7), ("/own/b", 30), ("/own/c", 30)]
    assert logs.list_tags_for_resource(resourceArn=group_arn("/own/a"))["tags"] == {}
    with pytest.raises(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName="/own/a")
    aws(daemon, "delete-log-group", "--log-group-name", "/own/a")
    assert group_names(logs, "/own/") == ["/own/b", "/own/c"]
    with pytest.raises(logs.exceptions.ResourceNotFoundException) as refused:
        logs.describe_log_streams(logGroupName="/own/a")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    for name in ("/own/b", "/own/c"):
        logs.delete_log_group(logGroupName=name)


def test_what_is_not_served_is_refused_by_name(api, logs):
    logs.create_log_group(logGroupName="/own/refused")
    with pytest.raises(logs.exceptions.InvalidParameterException, match="Invalid filter pattern"):
        logs.filter_log_events(logGroupName="/own/refused", filterPattern="{ $.level = 1 }")
    with pytest.raises(logs.exceptions.InvalidParameterException, match="kmsKeyId"):
        logs.create_log_group(logGroupName="/own/key", kmsKeyId="arn:aws:kms:us-east-1:000000000000:key/x")
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        logs.put_log_events(logGroupName="/own/refused", logStreamName="s", logEvents=[{"timestamp": 1, "message": "x"}])
    assert refused.value.response["Error"]["Code"] == "UnknownOperationException"
    stranger = api.session.client("logs", endpoint_url=api.daemon.endpoint, aws_secret_access_key="x" * 40,
                                  aws_access_key_id=api.credentials(api.daemon)["aws_access_key_id"])
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        stranger.describe_log_groups()
    assert refused.value.response["Error"]["Code"] == "InvalidSignatureException"
    logs.delete_log_group(logGroupName="/own/refused")
