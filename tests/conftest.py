"""One daemon and one image of the probe application for all tests that do not need their own."""

import pytest

from support.clients import HOOKS_ALL, Api, probe_application
from support.daemon import Daemon


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    # Of the suspended, one process is kept: wakes from the disk and of a kept process are both tried.
    daemon = Daemon(tmp_path_factory.mktemp("colibri"), "[hot]\nmachines = 1\n").start()
    yield daemon
    Api(daemon).terminate_all()
    left = daemon.leftovers()
    daemon.stop()
    assert left == {"machines": [], "directories": []}


@pytest.fixture(scope="session")
def api(daemon):
    return Api(daemon)


@pytest.fixture(scope="session")
def probe_image(api):
    return api.build(
        "probe",
        probe_application(),
        hooks=HOOKS_ALL,
        environmentVariables={
            "OVERRIDDEN": "image version",
            "READY_AFTER": "1",
            "COLIBRI_IDLE_SIGNAL": "traffic,cpu,connections",
        },
    )


@pytest.fixture
def microvm(api, probe_image):
    """A MicroVM of the test's own."""
    from support.clients import AUTO_RESUME

    microvm = api.run(probe_image, idlePolicy=AUTO_RESUME)
    yield microvm
    microvm.terminate()
