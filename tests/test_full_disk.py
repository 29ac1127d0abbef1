"""A disk that fills up during a suspend costs the suspend, not the machine."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from support.clients import AUTO_RESUME, HOOKS_ALL, Api, probe_application, wait_for
from support.daemon import Daemon


@pytest.fixture
def small_disk(tmp_path):
    """A daemon whose data directory is a file system of 4 GiB."""
    image, mount = tmp_path / "disk.img", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    daemon = Daemon(mount)
    try:
        yield daemon.start()
        Api(daemon).terminate_all()
        daemon.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(disk, left_mib):
    """Takes what is free but for so much."""
    filler = disk.directory / "filler"
    free = os.statvfs(disk.directory)
    with filler.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, (free.f_bavail * free.f_frsize) - (left_mib << 20))
        except OSError as error:
            # Somebody else was faster, or the file's own description did not fit: it is full all the same.
            if error.errno != errno.ENOSPC:
                raise
    return filler


def test_a_full_disk_leaves_the_microvm_running(small_disk):
    api = Api(small_disk)
    image = api.build("probe", probe_application(), hooks=HOOKS_ALL)
    microvm = api.run(image, idlePolicy=AUTO_RESUME)
    microvm.get("/dirty?mib=64")
    filler = fill(small_disk, 16)
    with pytest.raises(api.microvms.exceptions.ClientError) as refused:
        api.microvms.run_microvm(imageIdentifier=image)
    assert refused.value.response["Error"]["Code"] == "InsufficientCapacityException"
    assert "disk_reserve_mib" in str(refused.value)
    api.microvms.suspend_microvm(microvmIdentifier=microvm.id)
    wait_for("the suspend was given up", lambda: api.state(microvm.id) == "RUNNING", 60)
    assert microvm.get("/")["visits"] == 1
    filler.unlink()
    microvm.suspend()
    assert microvm.get("/")["visits"] == 2
    fill(small_disk, 0)
    api.microvms.terminate_microvm(microvmIdentifier=microvm.id)
    wait_for("the MicroVM ends on a full disk", lambda: api.state(microvm.id) == "TERMINATED", 60)


def test_a_log_that_cannot_be_written_costs_its_lines_and_nothing_else(tmp_path):
    daemon = Daemon(tmp_path)
    daemon.log = Path("/dev/full")
    daemon.tail = lambda: "its log is /dev/full"
    daemon.start()
    try:
        api = Api(daemon)
        assert api.microvms.list_microvms()["items"] == []
        with pytest.raises(api.microvms.exceptions.ResourceNotFoundException):
            api.microvms.get_microvm(microvmIdentifier="microvm-00000000-0000-0000-0000-000000000000")
        assert daemon.process.poll() is None
    finally:
        daemon.stop()
