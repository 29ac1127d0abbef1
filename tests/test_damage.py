"""A suspension that rots on the disk: refused, and the one before offered and taken (docs/lifecycle.md)."""

import json

from support.clients import AUTO_RESUME, wait_for
from test_state_survives import checked, machine_of

GO_BACK = {"X-Colibri-If-Damaged": "previous"}


def asleep_on_the_disk(daemon, microvm, other):
    """The daemon keeps one process of a suspended MicroVM: the other's."""
    microvm.suspend()
    other.get("/")
    other.suspend()
    wait_for("the process gone", lambda: machine_of(daemon, microvm) is None)
    wait_for("its directory left", lambda: not (daemon.data / "microvms" / microvm.id / "qmp.sock").exists())


def damage(daemon, microvm):
    delta = daemon.data / "microvms" / microvm.id / "memory.delta"
    content = bytearray(delta.read_bytes())
    content[len(content) // 2] ^= 1
    delta.write_bytes(content)


def going_back(api, microvm):
    """ResumeMicrovm with the header, which an SDK signs with the rest."""
    client = api.session.client("lambda-microvms", endpoint_url=api.daemon.endpoint)
    client.meta.events.register(
        "before-call.lambda-microvms.ResumeMicrovm", lambda params, **_: params["headers"].update(GO_BACK)
    )
    client.resume_microvm(microvmIdentifier=microvm.id)


def refusal(api, microvm):
    found = api.microvms.get_microvm(microvmIdentifier=microvm.id)
    return found.get("stateReason") if found["state"] == "SUSPENDED" else None


def test_a_damaged_suspension_offers_the_one_before_and_goes_back_to_it_when_asked(daemon, api, probe_image):
    microvm, other = (api.run(probe_image, idlePolicy=AUTO_RESUME) for _ in range(2))
    before = checked(microvm)["file"]
    wait_for("a pass over the file", lambda: checked(microvm)["file"] > before)
    assert microvm.get("/")["visits"] == 1
    asleep_on_the_disk(daemon, microvm, other)
    assert [microvm.get("/")["visits"] for _ in range(2)] == [2, 3]
    # Its checker rewrites memory and a file of its disk after that.
    before = checked(microvm)["file"]
    wait_for("a pass over the file", lambda: checked(microvm)["file"] > before + 1)
    asleep_on_the_disk(daemon, microvm, other)
    damage(daemon, microvm)

    api.microvms.resume_microvm(microvmIdentifier=microvm.id)
    reason = wait_for("the refusal", lambda: refusal(api, microvm))
    assert "does not match its checksum" in reason and "X-Colibri-If-Damaged: previous" in reason, reason
    microvm.get("/", expect=502)
    assert refusal(api, microvm) == reason

    going_back(api, microvm)
    awake = api.wait_for_state(microvm.id, "RUNNING")
    assert "went back to its suspension of" in awake["stateReason"]
    assert microvm.get("/")["visits"] == 2
    # Memory and disk are of one moment: the checker knows both.
    before = checked(microvm)["file"]
    wait_for("a pass over the file", lambda: checked(microvm)["file"] > before + 1)
    asleep_on_the_disk(daemon, microvm, other)
    assert microvm.get("/")["visits"] == 3

    records = map(json.loads, (daemon.data / "audit" / "audit.jsonl").read_text().splitlines())
    asked = [r for r in records if (r.get("requestParameters") or {}).get("x-colibri-if-damaged") == "previous"]
    assert [r["eventName"] for r in asked] == ["ResumeMicrovm"]
    microvm.terminate()
    other.terminate()
    assert not list((daemon.data / "microvms").glob(f"{microvm.id}*"))
