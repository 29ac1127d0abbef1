"""Hundreds of random lifecycle operations on real machines, while the daemon is killed again and again;
then an audit: everything that was made on the host must be gone.

`make soak` runs it as root. The seed is printed; with the same one the same operations come in the same
order (their timing is the machine's). Ends with 1 when a machine, a visit or anything else was lost."""

import argparse
import contextlib
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import audit
from support.clients import AUTO_RESUME, HOOKS_ALL, Api, Microvm, probe_application, wait_for
from support.daemon import TARGET, Daemon

# One machine waits in the pool and two processes of suspended MicroVMs are kept: launches and wakes of
# every kind come up, and what should be there at rest is known.
SETTINGS = "[pool]\nmachines_per_version = 1\n\n[spares]\nenabled = false\n\n[hot]\nmachines = 2\n"
MOST = 4
# A kill comes within this time of the call: operations take from a tenth of a second to half of one.
LONGEST_DELAY = 0.25
CUT_SECONDS = 180


class Tracked:
    """A MicroVM, and what must be found of it: a killed request may have been counted or not."""

    def __init__(self, microvm):
        self.microvm = microvm
        self.least = self.most = 0

    def visited(self, visits):
        expected = f"{self.least + 1} to {self.most + 1}"
        assert self.least < visits <= self.most + 1, f"{self.microvm.id}: visit {visits} instead of {expected}"
        self.least = self.most = visits


class Soak:
    def __init__(self, daemon, seed):
        self.daemon, self.random = daemon, random.Random(seed)
        self.api, self.image, self.live = None, None, []
        self.done, self.ids, self.mark = Counter(), set(), None
        self.kills = 0

    # Operations. Each leaves what it found out in `self.live`.

    def launch(self, token):
        run = self.api.microvms.run_microvm
        found = run(imageIdentifier=self.image, idlePolicy=AUTO_RESUME, clientToken=token)
        self.ids.add(found["microvmId"])
        return found

    def begin(self, found):
        self.api.wait_for_state(found["microvmId"], "RUNNING")
        self.live.append(Tracked(Microvm(self.api, found["microvmId"], found["endpoint"])))

    def visit(self, tracked):
        tracked.visited(tracked.microvm.get("/")["visits"])

    def choices(self):
        """What can be done now, and how often each is wanted."""
        running = [t for t in self.live if self.state(t) == "RUNNING"]
        suspended = [t for t in self.live if t not in running]
        found = [("launch", None, 3)] if len(self.live) < MOST else []
        found += [(name, t, weight) for t in running for name, weight in (("visit", 2), ("suspend", 4), ("terminate", 1))]
        return found + [(name, t, weight) for t in suspended for name, weight in (("wake", 4), ("resume", 3), ("terminate", 1))]

    def state(self, tracked):
        found = self.api.microvms.get_microvm(microvmIdentifier=tracked.microvm.id)
        assert found["state"] in ("RUNNING", "SUSPENDED"), f"{tracked.microvm.id}: {found['state']}: {found.get('stateReason')}"
        return found["state"]

    def step(self, kill):
        options = self.choices()
        name, tracked, _ = self.random.choices(options, [weight for *_, weight in options])[0]
        delay, token = self.random.uniform(0, LONGEST_DELAY), str(uuid.UUID(int=self.random.getrandbits(128)))
        if kill:
            self.cut_off(name, tracked, token, delay)
        else:
            self.perform(name, tracked, token)
        self.done[name] += 1
        self.look()
        return name

    def perform(self, name, tracked, token):
        if name == "launch":
            self.begin(self.launch(token))
        elif name in ("visit", "wake"):
            self.visit(tracked)
        else:
            getattr(tracked.microvm, name)()
            if name == "terminate":
                self.live.remove(tracked)

    def cut_off(self, name, tracked, token, delay):
        """The operation, with a kill of the daemon in the middle; then what has come of it."""
        calls = {
            "launch": lambda: self.launch(token),
            "visit": lambda: tracked.microvm.get("/"),
            "wake": lambda: tracked.microvm.get("/"),
            "suspend": lambda: self.api.microvms.suspend_microvm(microvmIdentifier=tracked.microvm.id),
            "resume": lambda: self.api.microvms.resume_microvm(microvmIdentifier=tracked.microvm.id),
            "terminate": lambda: self.api.microvms.terminate_microvm(microvmIdentifier=tracked.microvm.id),
        }
        caller = threading.Thread(target=_whatever_comes, args=[calls[name]])
        caller.start()
        # No event to wait for: the kill is to come at any moment.
        time.sleep(delay)
        self.done["calls cut off"] += caller.is_alive()
        self.daemon.crash()
        self.kills += 1
        self.daemon.start()
        caller.join(CUT_SECONDS)
        assert not caller.is_alive(), f"{name} did not end within {CUT_SECONDS} s of a kill"
        self.settle(name, tracked, token)

    def settle(self, name, tracked, token):
        if name == "launch":
            self.settle_launch(token)
        elif name == "terminate":
            tracked.microvm.terminate()
            self.live.remove(tracked)
        else:
            if name in ("visit", "wake"):
                tracked.most += 1
            self.api.wait_for_state(tracked.microvm.id, "RUNNING", "SUSPENDED")
        for other in self.live:
            self.api.wait_for_state(other.microvm.id, "RUNNING", "SUSPENDED")

    def settle_launch(self, token):
        """The same client token again: the launch was finished, is made now, or has ended with a reason."""
        found = self.launch(token)
        state = self.api.wait_for_state(found["microvmId"], "RUNNING", "TERMINATED")
        if state["state"] == "TERMINATED":
            assert state.get("stateReason"), f"{found['microvmId']} ended without a reason"
            self.done["launches that a kill ended"] += 1
        else:
            self.begin(found)

    # What is looked at.

    def look(self):
        """Names of what the daemon has made, for the audit."""
        for part in ("microvms", "pool", "builds"):
            directory = self.daemon.data / part
            self.ids |= {p.name for p in directory.iterdir()} if directory.is_dir() else set()

    def at_rest(self):
        """Descriptors and bytes once every MicroVM has ended and one machine waits in the pool."""
        self.api.terminate_all()
        self.live.clear()
        wait_for("one machine in the pool", lambda: len(self.daemon.machines("pool")) == 1, 120)
        self.look()
        # What a waiting client holds open is its own: connections end with this client. Those that a kill cut off
        # end with the errors that they are caught in.
        self.api.microvms.close()
        self.api.s3.close()
        gc.collect()
        settled = _settled(lambda: audit.descriptors(self.daemon.process.pid))
        return settled, audit.bytes_on_disk(self.daemon.data)

    def prepare(self):
        self.api = Api(self.daemon)
        self.image = self.api.build("soak", probe_application(), hooks=HOOKS_ALL)
        builds = self.api.microvms.list_microvm_image_builds(imageIdentifier=self.image, imageVersion="1.0")["items"]
        self.ids |= {build["buildId"] for build in builds}
        # Everything has been made once: what is loaded late is loaded now.
        for name in ("launch", "visit", "suspend", "wake"):
            self.perform(name, self.live[0] if self.live else None, str(uuid.uuid4()))
        self.mark = audit.mark(self.daemon.machines())


def _whatever_comes(call):
    """A client whose server is killed sees anything."""
    try:
        call()
    except Exception as error:
        say(f"  the client saw: {type(error).__name__}")


def _settled(look, seconds=90):
    """The first value that is seen three times in a row: connections take a moment to close."""
    seen = []

    def steady():
        seen.append(look())
        return seen[-1] if len(seen) >= 3 and seen[-1] == seen[-2] == seen[-3] else None

    return wait_for("descriptors at rest", steady, seconds, 1.0)


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def left(soak, before, after):
    """What the audit found: nothing, where all is well. `before` and `after` are of the daemon at rest."""
    data = soak.daemon.data
    found = {
        "processes": audit.processes(data),
        "mounts": audit.mounts(data),
        "cgroups": audit.cgroups(soak.ids),
        **audit.networking(soak.mark),
        **soak.daemon.leftovers(),
        "descriptors": dict(after[0] - before[0]),
    }
    sizes = [audit.kept(sizes) for _, sizes in (before, after)]
    found["bytes"] = {name: size - sizes[0].get(name, 0) for name, size in sizes[1].items() if size > sizes[0].get(name, 0)}
    # The machine that waits in the pool is at another point of its life each time; it is gone below.
    found["bytes"].pop("pool", None)
    # The audit trail is kept, and bounded by its own settings.
    found["bytes"].pop("audit", None)
    pool = data / "pool"
    found["pool"] = sorted(p.name for p in pool.iterdir()) if pool.is_dir() else []
    return {what: things for what, things in found.items() if things}


def run(options, directory):
    daemon = Daemon(directory, SETTINGS).start()
    soak = Soak(daemon, options.seed)
    started = time.monotonic()
    try:
        say(f"seed {options.seed}: {options.operations} operations, {options.kills} kills")
        soak.prepare()
        before = soak.at_rest()
        soak.api = Api(daemon)
        kills = set(soak.random.sample(range(options.operations - options.calm), options.kills))
        for number in range(options.operations):
            name = soak.step(number in kills)
            if number in kills or (number + 1) % 10 == 0:
                say(f"{number + 1} of {options.operations}: {name}, {soak.kills} kills, {len(soak.live)} live")
        # Every one of them is asked once more before it ends.
        for tracked in list(soak.live):
            soak.visit(tracked)
        after = soak.at_rest()
    except BaseException:
        say(f"the daemon's last words:\n{daemon.tail()}")
        say(f"all of them: {shutil.copy(daemon.log, TARGET / 'soak.log')}")
        # Machines outlive the daemon; the failure matters more than one here.
        with contextlib.suppress(Exception):
            Api(daemon).terminate_all()
        raise
    finally:
        daemon.stop()
    return summary(soak, before, after, time.monotonic() - started, options)


def summary(soak, before, after, seconds, options):
    found = {
        "seed": options.seed,
        "operations": options.operations,
        "kills": soak.kills,
        "seconds": round(seconds),
        "done": dict(soak.done),
        "descriptors": [sum(before[0].values()), sum(after[0].values())],
        "bytes": [before[1], after[1]],
        "left": left(soak, before, after),
    }
    (TARGET / "soak.json").write_text(json.dumps(found, indent=1))
    print(f"{options.operations} operations ({', '.join(f'{n} {name}' for name, n in soak.done.items())})")
    print(f"{soak.kills} kills of the daemon in {found['seconds']} s, seed {options.seed}")
    print(f"descriptors of the daemon at rest: {found['descriptors'][0]} at the start, {found['descriptors'][1]} at the end")
    print(f"left behind: {json.dumps(found['left']) if found['left'] else 'nothing'}")
    return 1 if found["left"] else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--operations", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    # Without a kill at the end: the descriptors that are counted there are those of much work.
    parser.add_argument("--calm", type=int, default=60, help="operations at the end without a kill")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    least = options.calm + options.kills
    if options.operations < least:
        parser.error(f"at least {least} operations for {options.kills} kills and {options.calm} operations without one")
    assert os.geteuid() == 0, "the soak needs root: the daemon makes taps, namespaces and cgroups"
    with tempfile.TemporaryDirectory(prefix="colibri-soak-") as directory:
        sys.exit(run(options, Path(directory)))


main()
