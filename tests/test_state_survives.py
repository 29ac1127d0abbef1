"""What a MicroVM holds is there after it slept: memory, files, processes; and not one byte is lost."""

import os

from support.clients import AUTO_RESUME, wait_for


def test_a_request_wakes_a_suspended_microvm_with_its_state_as_it_was(microvm):
    assert microvm.get("/")["visits"] == 1
    before = microvm.get("/identity")
    microvm.suspend()
    visit = microvm.get("/")
    assert visit["visits"] == 2
    assert visit["hooks"] == {"ready": 2, "run": 1, "suspend": 1, "resume": 1}
    after = microvm.get("/identity")
    for stable in ("hostname", "machineId", "bootId", "pid"):
        assert after[stable] == before[stable]


def checked(microvm):
    """What the guest's checker has done so far; it must have found nothing."""
    seen = microvm.get("/integrity")
    assert seen["faults"] == []
    return seen


def test_fifteen_sleeps_lose_no_byte_of_memory_or_disk(daemon, api, probe_image):
    """A process of each guest rewrites and checks memory and a file all the while.

    One process of a suspended MicroVM is kept at most: the one suspended last is continued, the
    other is restored from the disk."""
    restored, continued = (api.run(probe_image, idlePolicy=AUTO_RESUME) for _ in range(2))
    first = {microvm: checked(microvm) for microvm in (restored, continued)}
    for _ in range(15):
        others = set(daemon.machines()) - {machine_of(daemon, restored), machine_of(daemon, continued)}
        restored.suspend()
        continued.suspend()
        kept = machine_of(daemon, continued)
        wait_for("the older one's process gone", lambda: set(daemon.machines()) - others == {kept})
        for microvm in (restored, continued):
            # The traffic itself wakes it. A sleep between two checks would prove nothing.
            before = checked(microvm)["file"]
            wait_for("a pass over the file", lambda: checked(microvm)["file"] > before)
    for microvm, begun in first.items():
        wait_for("passes over the memory", lambda: checked(microvm)["memory"] > begun["memory"] + 2)
        assert microvm.get("/")["hooks"]["resume"] == 15
        microvm.terminate()


def machine_of(daemon, microvm):
    """The process of a MicroVM, by its working directory; None when it has none."""
    directory = str(daemon.data / "microvms" / microvm.id)
    return next((pid for pid in daemon.machines() if os.readlink(f"/proc/{pid}/cwd") == directory), None)


def test_launches_of_one_image_do_not_share_what_they_write(api, probe_image):
    one, two = api.run(probe_image), api.run(probe_image)
    assert [one.get("/")["visits"] for _ in range(3)] == [1, 2, 3]
    assert two.get("/")["visits"] == 1
    one.terminate()
    two.terminate()
