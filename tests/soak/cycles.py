"""One MicroVM, suspended and woken hundreds of times while a process in it rewrites and checks memory and
disk: no byte is lost, and neither delta, files nor the daemon's descriptors grow. The disk's size is shown
and not judged: it grows with what the guest writes, until its file system's journal has been round once.

`make cycles` runs it as root. The first half wakes from the disk, the second by continuing a kept
process; traffic wakes it, or ResumeMicrovm every third time. Ends with 1 when anything was lost or grew."""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import audit
from support.clients import AUTO_RESUME, HOOKS_ALL, Api, probe_application, wait_for
from support.daemon import TARGET, Daemon

FROM_DISK = "[pool]\nenabled = false\n\n[hot]\nenabled = false\n"
FROM_PROCESS = "[pool]\nenabled = false\n\n[hot]\nmachines = 1\n"
# Cycles until the guest has touched what it will touch again and again.
SETTLED = 10
LOOK = 10
# Against the median of as many cycles at the beginning of the half: what a page more or less is not.
GROWTH = 1.25
WINDOW = 25
TOKEN_MINUTES = 60


def checked(microvm):
    """What the guest's checker has done so far; it must have found nothing."""
    seen = microvm.get("/integrity")
    assert seen["faults"] == [], seen
    return seen


def cycle(api, microvm, number):
    """One sleep. What was written, and how long it took. The checker goes on all the while: what a sleep
    spoilt is found at its next pass, however many sleeps later; that it gets on is seen now and then."""
    before = checked(microvm)["file"] if number % LOOK == 0 else None
    started = time.monotonic()
    microvm.suspend()
    asleep = time.monotonic()
    sizes = suspended_sizes(api.daemon, microvm)
    waking = time.monotonic()
    if number % 3 == 2:
        microvm.resume()
    checked(microvm)
    awake = time.monotonic()
    if before is not None:
        wait_for("a pass over the file", lambda: checked(microvm)["file"] > before, 120)
    return {**sizes, "suspendMillis": (asleep - started) * 1000, "wakeMillis": (awake - waking) * 1000}


def suspended_sizes(daemon, microvm):
    directory = daemon.data / "microvms" / microvm.id
    files = {path.name: path.stat().st_blocks * 512 for path in directory.iterdir()}
    return {
        "delta": files.get("memory.delta", 0),
        "disk": files.get("disk.qcow2", 0),
        "files": sorted(files),
        "descriptors": sum(audit.descriptors(daemon.process.pid).values()),
    }


def half(daemon, microvm, cycles, what):
    """Cycles of one kind, with a daemon that is not stopped meanwhile."""
    api, seen = microvm.api, []
    for number in range(cycles):
        if number % 100 == 0:
            microvm.token = microvm.mint(minutes=TOKEN_MINUTES)
        seen.append(cycle(api, microvm, number))
        if (number + 1) % 10 == 0:
            say(f"{what}: {number + 1} of {cycles}, delta {seen[-1]['delta'] / 2**20:.1f} MiB, {seen[-1]['descriptors']} descriptors")
    return seen


def grown(seen):
    """What is more at the end than at the beginning."""
    first, last = seen[SETTLED : SETTLED + WINDOW], seen[-WINDOW:]
    found = {}
    for what in ("delta", "descriptors"):
        was, became = (statistics.median(one[what] for one in part) for part in (first, last))
        # A descriptor is one too many; bytes vary with the moment.
        if became > was * (1 if what == "descriptors" else GROWTH):
            found[what] = [was, became]
    if first[0]["files"] != last[-1]["files"]:
        found["files"] = [first[0]["files"], last[-1]["files"]]
    return found


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def report(halves, passes, seconds):
    problems = {what: grown(seen) for what, seen in halves.items()}
    for what, seen in halves.items():
        middle = {name: statistics.median(one[name] for one in seen) for name in ("suspendMillis", "wakeMillis")}
        ends = [seen[SETTLED], seen[-1]]
        print(
            f"{len(seen)} cycles, {what}: suspend {middle['suspendMillis']:.0f} ms, wake {middle['wakeMillis']:.0f} ms (medians); "
            + ", ".join(f"{name} {ends[0][name]} -> {ends[1][name]}" for name in ("delta", "disk", "descriptors"))
        )
    print(f"the checker in the guest: {passes['memory']} passes over memory, {passes['file']} over its file, no fault; {seconds:.0f} s")
    print(f"grown: {json.dumps(problems) if any(problems.values()) else 'nothing'}")
    (TARGET / "cycles.json").write_text(json.dumps({"halves": halves, "passes": passes, "grown": problems}, indent=1))
    return 1 if any(problems.values()) else 0


def run(cycles, directory):
    started = time.monotonic()
    daemon = Daemon(directory, FROM_DISK).start()
    try:
        api = Api(daemon)
        # A checker that never rests would leave little of an emulated processor to everything else.
        image = api.build("cycles", probe_application(), hooks=HOOKS_ALL, environmentVariables={"INTEGRITY_PAUSE": "0.3"})
        microvm = api.run(image, idlePolicy=AUTO_RESUME)
        first = checked(microvm)
        halves = {"from the disk": half(daemon, microvm, cycles // 2, "from the disk")}
        # The other kind of wake is a setting: the same MicroVM goes on under the next daemon.
        daemon.stop()
        daemon.configuration.write_text(FROM_PROCESS)
        daemon.start()
        halves["of a kept process"] = half(daemon, microvm, cycles - cycles // 2, "of a kept process")
        wait_for("passes over the memory", lambda: checked(microvm)["memory"] > first["memory"] + 2, 300)
        passes = checked(microvm)
        resumed = microvm.get("/")["hooks"]["resume"]
        assert resumed == cycles, f"{resumed} resumes instead of {cycles}"
        microvm.terminate()
        left = daemon.leftovers()
        assert left == {"machines": [], "directories": []}, left
    except BaseException:
        say(f"the daemon's last words:\n{daemon.tail()}")
        # Machines outlive the daemon; the failure matters more than one here.
        with contextlib.suppress(Exception):
            Api(daemon).terminate_all()
        raise
    finally:
        daemon.stop()
    return report(halves, passes, time.monotonic() - started)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=500)
    options = parser.parse_args()
    if options.cycles < 2 * (SETTLED + 2 * WINDOW):
        parser.error(f"at least {2 * (SETTLED + 2 * WINDOW)} cycles, to compare their beginning with their end")
    assert os.geteuid() == 0, "root is needed: the daemon makes taps, namespaces and cgroups"
    with tempfile.TemporaryDirectory(prefix="colibri-cycles-") as directory:
        sys.exit(run(options.cycles, Path(directory)))


main()
