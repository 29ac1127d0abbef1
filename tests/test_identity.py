"""Every MicroVM is its own machine, although all of an image wake from one snapshot."""

import time


def test_clones_differ_in_everything_that_names_a_machine(api, probe_image):
    one, two = api.run(probe_image), api.run(probe_image)
    a, b = one.get("/identity"), two.get("/identity")
    for own in ("hostname", "machineId", "bootId", "random"):
        assert a[own] != b[own], own
    one.terminate()
    two.terminate()


# What the guest's wall clock may be off when it is given traffic, seconds.
CLOCK_BOUND = 0.05


def clock_offset(microvm):
    """The guest's wall clock less the host's, and what is not known of it: the time that a request takes."""
    with microvm.client() as client:

        def ask():
            before = time.time()
            shown = client.get("/identity").json()["time"]
            after = time.time()
            return (shown - (before + after) / 2, (after - before) / 2)

        return min((ask() for _ in range(20)), key=lambda offset: offset[1])


def test_the_wall_clock_is_right_to_50_ms_after_a_sleep(microvm):
    microvm.suspend()
    # Long enough that a clock which had stood still would show.
    time.sleep(3)
    offset, unknown = clock_offset(microvm)
    print(f"the guest's clock is off by {offset * 1000:.1f} ms, give or take {unknown * 1000:.1f} ms")
    assert abs(offset) < CLOCK_BOUND + unknown


def test_the_resume_hook_is_told_how_long_the_machine_slept(microvm):
    microvm.suspend()
    time.sleep(2)
    slept = float(microvm.get("/")["slept"])
    assert 2 <= slept < 60


def test_the_application_sees_the_documented_environment(microvm, probe_image):
    seen = microvm.get("/identity")
    environment = seen["environment"]
    assert environment["AWS_LAMBDA_MICROVM_IMAGE_NAME"] == "probe"
    assert environment["AWS_LAMBDA_MICROVM_IMAGE_ARN"] == probe_image
    assert environment["AWS_LAMBDA_MICROVM_IMAGE_VERSION"] == "1.0"
    assert environment["AWS_REGION"] == "us-east-1"
    assert environment["FROM_DOCKERFILE"] == "yes"
    assert environment["OVERRIDDEN"] == "image version"
    assert seen["pid"] == 1 and seen["uid"] == 0 and seen["cwd"] == "/app"
    assert seen["capEff"] == "00000000a80425fb"
    # The 512 MiB class sees four times that, on one CPU (specification, section 18).
    assert 1_900_000 < seen["memTotalKiB"] < 2_097_152 and seen["cpus"] == 1


def test_the_run_hook_is_told_who_it_is(api, probe_image):
    microvm = api.run(probe_image, runHookPayload='{"task": 7}')
    run = microvm.get("/")["run"]
    assert run == {"microvmId": microvm.id, "runHookPayload": '{"task": 7}'}
    microvm.terminate()
    without = api.run(probe_image)
    assert without.get("/")["run"] == {"microvmId": without.id}
    without.terminate()


def test_the_tenant_cannot_reach_the_control_port(microvm):
    attempts = microvm.get("/control-port")
    assert set(attempts) == {"/dev", "/tmp", "/app"}
    assert "opened" not in attempts.values(), attempts
