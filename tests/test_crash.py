"""The daemon killed with SIGKILL: no machine notices, none is lost."""

import pytest

from support.clients import AUTO_RESUME, HOOKS_ALL, Api, probe_application
from support.daemon import Daemon


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    # Machines are counted: a suspended MicroVM is to have none.
    daemon = Daemon(tmp_path_factory.mktemp("crash"), "[hot]\nenabled = false\n").start()
    yield daemon
    Api(daemon).terminate_all()
    daemon.stop()


def test_a_killed_daemon_finds_its_microvms_again(own):
    api = Api(own)
    image = api.build("probe", probe_application(), hooks=HOOKS_ALL)
    running = api.run(image, idlePolicy=AUTO_RESUME)
    suspended = api.run(image, idlePolicy=AUTO_RESUME)
    running.get("/")
    suspended.get("/")
    suspended.suspend()
    machines = own.machines()
    assert len(machines) == 1
    own.crash()
    assert own.machines() == machines, "a machine outlives the daemon"
    own.start()
    assert api.state(running.id) == "RUNNING"
    assert api.state(suspended.id) == "SUSPENDED"
    assert running.get("/")["visits"] == 2, "the running one ran on"
    assert suspended.get("/")["visits"] == 2, "the suspended one wakes"
    # The adopted one goes through its whole life.
    running.suspend()
    assert running.get("/")["visits"] == 3
    api.terminate_all()
    assert own.leftovers() == {"machines": [], "directories": []}


def test_a_machine_that_died_with_the_daemon_is_reported(own):
    import os
    import signal

    api = Api(own)
    image = next(i["imageArn"] for i in api.microvms.list_microvm_images()["items"])
    microvm = api.run(image)
    own.crash()
    for machine in own.machines():
        os.kill(machine, signal.SIGKILL)
    own.start()
    ended = api.wait_for_state(microvm.id, "TERMINATED")
    assert ended["stateReason"]
    assert own.leftovers() == {"machines": [], "directories": []}


def test_a_build_cut_by_a_crash_is_built_again(own):
    api = Api(own)
    from support.clients import zip_directory

    uri = api.upload("again.zip", zip_directory(probe_application()))
    arn = api.create_image("again", uri)["imageArn"]
    own.crash()
    own.start()
    assert api.wait_for_image(arn)["state"] == "CREATED"
