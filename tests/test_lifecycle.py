"""States and their triggers (specification, section 5.5), on real machines."""

import json

import botocore.exceptions
import pytest

from support.clients import AUTO_RESUME, wait_for


def test_suspend_and_resume_are_idempotent_and_call_their_hooks_once(microvm, api):
    microvm.suspend()
    api.microvms.suspend_microvm(microvmIdentifier=microvm.id)
    microvm.resume()
    api.microvms.resume_microvm(microvmIdentifier=microvm.id)
    assert microvm.get("/")["hooks"] == {"ready": 2, "run": 1, "suspend": 1, "resume": 1}


def test_an_idle_microvm_is_suspended_and_its_window_ends_it(api, probe_image):
    """Its neighbour, of the same policy, computes: the image says that this counts (COLIBRI_IDLE_SIGNAL)."""
    policy = {"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 5, "autoResumeEnabled": False}
    microvm, working = (api.run(probe_image, idlePolicy=policy) for _ in range(2))
    working.get("/compute?seconds=300")
    microvm.get("/")
    api.wait_for_state(microvm.id, "SUSPENDED", seconds=90)
    assert api.state(working.id) == "RUNNING"
    working.terminate()
    refused = microvm.get("/", expect=502)
    assert refused.content == b""
    ended = api.wait_for_state(microvm.id, "TERMINATED", seconds=30)
    assert ended["stateReason"] == "MicroVM exceeded maximum lifetime"


def test_the_lifetime_is_a_wall(api, probe_image):
    microvm = api.run(probe_image, maximumDurationInSeconds=15)
    ended = api.wait_for_state(microvm.id, "TERMINATED", seconds=60)
    assert ended["stateReason"] == "MicroVM exceeded maximum lifetime."


def test_a_suspended_microvm_is_terminated_without_a_resume(api, probe_image):
    microvm = api.run(probe_image)
    microvm.suspend()
    ended = microvm.terminate()
    assert ended["stateReason"] == "Success."
    # Again, and again: nothing but success.
    api.microvms.terminate_microvm(microvmIdentifier=microvm.id)
    with pytest.raises(api.microvms.exceptions.ConflictException):
        api.microvms.suspend_microvm(microvmIdentifier=microvm.id)
    microvm.get("/", expect=502)


def test_the_end_of_the_main_process_ends_the_microvm(api, probe_image):
    microvm = api.run(probe_image)
    microvm.get("/exit?code=7")
    ended = api.wait_for_state(microvm.id, "TERMINATED")
    assert ended["stateReason"] == "Container Stopped with Exit Code: 7"


def test_a_refusing_run_hook_ends_the_launch(api, probe_image):
    payload = json.dumps({"refuse": {"run": 503}})
    microvm = api.run(probe_image, wait=False, runHookPayload=payload)
    ended = api.wait_for_state(microvm.id, "TERMINATED")
    assert ended["stateReason"].startswith("Run lifecycle hook returned HTTP status 503.")


def test_a_refusing_suspend_hook_ends_the_microvm(api, probe_image):
    microvm = api.run(probe_image)
    microvm.get("/refuse?hook=suspend&status=500")
    api.microvms.suspend_microvm(microvmIdentifier=microvm.id)
    ended = api.wait_for_state(microvm.id, "TERMINATED")
    assert ended["stateReason"].startswith("Suspend lifecycle hook returned HTTP status 500.")


def test_ending_everything_leaves_nothing_behind(api, daemon, probe_image):
    running, suspended = api.run(probe_image, idlePolicy=AUTO_RESUME), api.run(probe_image)
    suspended.suspend()
    running.get("/")
    api.terminate_all()
    wait_for("everything gone", lambda: daemon.leftovers() == {"machines": [], "directories": []}, 30)


def test_unknown_microvms_are_not_found(api):
    with pytest.raises(api.microvms.exceptions.ResourceNotFoundException):
        api.microvms.get_microvm(microvmIdentifier="microvm-00000000-0000-4000-8000-000000000000")
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        api.microvms.run_microvm(imageIdentifier="probe")
    assert refused.value.response["Error"]["Message"] == "Malformed ARN - doesn't start with 'arn:'"
