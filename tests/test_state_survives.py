"""What a MicroVM holds is there after it slept: memory, files, processes; and not one byte is lost."""

from support.clients import AUTO_RESUME


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


def test_fifteen_sleeps_lose_no_byte_of_memory_or_disk(api, probe_image):
    """A process of the guest rewrites and checks memory and a file all the while."""
    microvm = api.run(probe_image, idlePolicy=AUTO_RESUME)
    first = microvm.get("/integrity")
    for _ in range(15):
        microvm.suspend()
        # The traffic itself wakes it.
        assert microvm.get("/integrity")["faults"] == []
    last = microvm.get("/integrity")
    assert last["memory"] > first["memory"] and last["file"] > first["file"]
    assert microvm.get("/")["hooks"]["resume"] == 15
    microvm.terminate()


def test_launches_of_one_image_do_not_share_what_they_write(api, probe_image):
    one, two = api.run(probe_image), api.run(probe_image)
    assert [one.get("/")["visits"] for _ in range(3)] == [1, 2, 3]
    assert two.get("/")["visits"] == 1
    one.terminate()
    two.terminate()
