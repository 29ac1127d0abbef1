"""Measures Colibri beside its comparisons, in one run: `make bench`.

Each figure is a client's: from the call sent to the answer received. Raw samples go to
target/bench.json; what is printed are medians and ratios, because machines are shared and noisy.
`--quick` takes a fifth of the samples; `--samples` and `--classes` are for hosts that are slower or smaller
still. Targets are compared and printed as held or not; a missed one does
not fail the run.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))
sys.path.insert(0, str(REPOSITORY / "scripts"))

import demo  # noqa: E402
import qemu_snapshot  # noqa: E402
from support.clients import AUTO_RESUME, HOOKS_ALL, Api, example, probe_application, wait_for  # noqa: E402
from support.daemon import Daemon  # noqa: E402

REPORT = REPOSITORY / "target" / "bench.json"
DIRTY_MIB = (1, 16, 64, 256)
# Seconds before a launch or a wake from the disk, in which what the one before took is made anew: a spare that has
# run takes a second of a processor. The service's shortest idle time before a suspend is 60 s. Wakes that come
# faster than that are those without spares.
ASLEEP = 2.0
SIZES_MIB = (512, 1024, 2048, 4096)
WITHOUT_TIERS = "[pool]\nenabled = false\n[hot]\nenabled = false\n"
WITHOUT_ANY = WITHOUT_TIERS + "[spares]\nenabled = false\n"

say, milliseconds = demo.say, demo.milliseconds


def spread(samples):
    """Median, p90, p99 and the raw samples, milliseconds."""
    ordered = sorted(samples)

    def quantile(share):
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {
        "count": len(ordered),
        "p50": round(statistics.median(ordered), 1),
        "p90": quantile(0.9),
        "p99": quantile(0.99),
        "samples": samples,
    }


def launches(api, image, count, between=0.0, before=lambda: None):
    """Call of RunMicrovm to the first answer, one after another."""
    samples = []
    for _ in range(count):
        time.sleep(between)
        before()
        begun = time.monotonic()
        microvm = api.run(image, wait=False, idlePolicy=AUTO_RESUME)
        demo.first_response(microvm)
        samples.append(milliseconds(begun))
        microvm.terminate()
    return samples


def wakes(api, image, count, before=lambda: None, asleep=0.0):
    """Request to a suspended MicroVM to its answer, after so many seconds of sleep."""
    microvm = api.run(image, idlePolicy=AUTO_RESUME)
    demo.first_response(microvm)
    samples = []
    for _ in range(count):
        microvm.suspend()
        time.sleep(asleep)
        before()
        begun = time.monotonic()
        demo.first_response(microvm)
        samples.append(milliseconds(begun))
    microvm.terminate()
    return samples


def drop_page_cache():
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def stopped(daemon, microvm):
    """How long its guest was stopped at its last suspend until all of it was captured, milliseconds."""
    pattern = re.compile(rf"suspended .*{microvm.id}.* stopped_micros=(\d+)")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", daemon.log.read_text(errors="replace"))
    return int(pattern.findall(plain)[-1]) / 1000


def suspends_by_dirty_pages(api, image, count):
    """Call of SuspendMicrovm to SUSPENDED, stop of the world, and the delta, against memory dirtied since the
    launch. What it is filled with is random: no compression makes it smaller. Each sample is a MicroVM of its
    own, because an application that fills its memory anew has both fillings for a moment."""
    found = {}
    for mib in DIRTY_MIB:
        suspends, stops, wakes = [], [], []
        for _ in range(count):
            microvm = api.run(image, idlePolicy=AUTO_RESUME)
            microvm.get(f"/dirty?mib={mib}")
            begun = time.monotonic()
            microvm.suspend()
            suspends.append(milliseconds(begun))
            stops.append(stopped(api.daemon, microvm))
            time.sleep(ASLEEP)
            begun = time.monotonic()
            size = (api.daemon.data / "microvms" / microvm.id / "memory.delta").stat().st_size
            microvm.get("/")
            wakes.append(milliseconds(begun))
            microvm.terminate()
        found[mib] = {
            "suspend_ms": spread(suspends),
            "stopped_ms": spread(stops),
            "wake_ms": spread(wakes),
            "delta_bytes": size,
        }
        say(
            f"{mib:4} MiB dirtied: suspend {found[mib]['suspend_ms']['p50']} ms, stopped "
            f"{found[mib]['stopped_ms']['p50']} ms, delta {size / 2**20:.1f} MiB, wake {found[mib]['wake_ms']['p50']} ms"
        )
    return found


def idle_suspends(api, image, count):
    """What an idle MicroVM's suspension takes on disk."""
    microvm = api.run(image, idlePolicy=AUTO_RESUME)
    demo.first_response(microvm)
    sizes = []
    for _ in range(count):
        microvm.suspend()
        sizes.append((api.daemon.data / "microvms" / microvm.id / "memory.delta").stat().st_size)
        demo.first_response(microvm)
    microvm.terminate()
    return {"median": int(statistics.median(sizes)), "samples": sizes}


def qemus_own(api, image, directory, count):
    """QEMU's own snapshot of the same guest, saved and restored: the daemon dies for it."""
    microvms = []
    for _ in range(count):
        microvms.append(api.run(image, idlePolicy=AUTO_RESUME))
        demo.first_response(microvms[-1])
    base = next((api.daemon.data / "images" / "flask-counter").glob("*/*/memory.base")).parent
    api.daemon.crash()
    samples = []
    for microvm in microvms:
        samples.append(qemu_snapshot.measure(api.daemon.data, microvm, base, directory, 8080))
        say(f"QEMU's own: {samples[-1]}")
    api.daemon.start()
    for microvm in microvms:
        api.wait_for_state(microvm.id, "TERMINATED")
    return {
        "save_ms": spread([sample["save_ms"] for sample in samples]),
        "loaded_ms": spread([sample["loaded_ms"] for sample in samples]),
        "restore_ms": spread([sample["restore_ms"] for sample in samples]),
        "bytes": samples[-1]["bytes"],
    }


def wakes_by_size(api, classes, count):
    """Wake from disk against the image's class, at equal dirty pages."""
    found = {}
    for size in classes:
        image = api.build(f"size-{size}", probe_application(), hooks=HOOKS_ALL, resources=[{"minimumMemoryInMiB": size}])
        microvm = api.run(image, idlePolicy=AUTO_RESUME)
        microvm.get("/dirty?mib=4")
        samples = []
        for _ in range(count):
            microvm.suspend()
            time.sleep(ASLEEP)
            begun = time.monotonic()
            microvm.get("/")
            samples.append(milliseconds(begun))
        microvm.terminate()
        found[size] = spread(samples)
        say(f"class {size} MiB (guest sees {4 * size} MiB): wake from disk {found[size]['p50']} ms")
    return found


def launch_at_once(api, image, count):
    """That many calls in the same instant; each one's time to its first answer."""
    times, begun = [], time.monotonic()

    def one():
        microvm = api.run(image, wait=False, idlePolicy=AUTO_RESUME)
        demo.first_response(microvm)
        times.append(milliseconds(begun))

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def suspended_crowd(api, image, count):
    """Many suspended MicroVMs: bytes each on disk, and what they cost the daemon."""
    daemon = api.daemon.process.pid
    before = demo.memory_of(daemon)["private"]
    crowd = []
    for _ in range(count):
        microvm = api.run(image, idlePolicy=AUTO_RESUME)
        microvm.suspend()
        crowd.append(microvm)
    sizes = [
        sum(file.stat().st_blocks * 512 for file in (api.daemon.data / "microvms" / microvm.id).rglob("*"))
        for microvm in crowd
    ]
    grown = demo.memory_of(daemon)["private"] - before
    result = {
        "count": count,
        "bytes_each": int(statistics.median(sizes)),
        "machines": len(api.daemon.machines()),
        "daemon_bytes_each": grown // count,
    }
    api.terminate_all()
    return result


def with_tiers(report, directory, count, _classes):
    """Everything on: the pool, the hot tier, spares."""
    daemon = Daemon(directory / "tiers").start()
    try:
        api = Api(daemon)
        image = api.build("flask-counter", example("flask-counter"), hooks=demo.HOOKS)
        report["machine"] |= json.loads(demo.run_doctor(daemon))
        # Time for the pool to be filled again between launches: what a steady service sees.
        report["launch_from_pool_ms"] = spread(launches(api, image, count, between=2.0))
        report["wake_from_hot_tier_ms"] = spread(wakes(api, image, count))
        report["cold_boot_ms"] = spread([demo.measure_cold_boot(api, image) for _ in range(3)])
        twenty = launch_at_once(api, image, 20)
        report["twenty_at_once_ms"] = {"last": max(twenty), **spread(twenty)}
        say(f"20 launches at once: median {report['twenty_at_once_ms']['p50']} ms, last {max(twenty)} ms")
        api.terminate_all()
    finally:
        daemon.stop()


def from_disk(report, directory, count, classes):
    """Without pool and hot tier, with spares: every launch and wake is from the disk."""
    daemon = Daemon(directory / "disk", WITHOUT_TIERS).start()
    try:
        api = Api(daemon)
        image = api.build("flask-counter", example("flask-counter"), hooks=demo.HOOKS)
        few = max(3, count // 5)
        report["launch_from_disk_ms"] = spread(launches(api, image, count, between=ASLEEP))
        report["wake_from_disk_ms"] = spread(wakes(api, image, count, asleep=ASLEEP))
        cold = launches(api, image, few, ASLEEP, drop_page_cache)
        report["launch_cold_page_cache_ms"] = spread(cold)
        report["wake_cold_page_cache_ms"] = spread(wakes(api, image, few, drop_page_cache, ASLEEP))
        report["idle_delta_bytes"] = idle_suspends(api, image, few)
        report["suspended_crowd"] = suspended_crowd(api, image, count=50)
        report["clones"] = demo.measure_clones(api, image)
        probe = api.build("probe", probe_application(), hooks=HOOKS_ALL)
        report["suspend_by_dirty_mib"] = suspends_by_dirty_pages(api, probe, few)
        report["wake_by_class_mib"] = wakes_by_size(api, classes, few)
        report["qemus_own"] = qemus_own(api, image, directory, 3)
        wait_for("nothing left", lambda: not daemon.leftovers()["directories"])
    finally:
        daemon.stop()


def one_processor(report, directory, count, classes):
    """Larger classes have more processors too; with one in each, memory alone differs: flat, or something is
    wrong."""
    daemon = Daemon(directory / "one-processor", WITHOUT_TIERS + "[capacity]\nvcpus_at_most = 1\n").start()
    try:
        report["wake_by_memory_mib"] = wakes_by_size(Api(daemon), classes, max(5, count // 5))
    finally:
        daemon.stop()


def without_anything(report, directory, count, _classes):
    """Not even spares: what a spare saves."""
    daemon = Daemon(directory / "plain", WITHOUT_ANY).start()
    try:
        api = Api(daemon)
        image = api.build("flask-counter", example("flask-counter"), hooks=demo.HOOKS)
        report["launch_without_spares_ms"] = spread(launches(api, image, max(3, count // 3)))
        report["wake_without_spares_ms"] = spread(wakes(api, image, max(3, count // 3)))
    finally:
        daemon.stop()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a fifth of the samples")
    arguments.add_argument("--samples", type=int, metavar="N", help="launches and wakes, 30 if not given")
    arguments.add_argument("--classes", type=int, nargs="+", metavar="MIB", default=SIZES_MIB, help="guests' sizes")
    arguments.add_argument("--report", type=Path, metavar="FILE", default=REPORT, help="where raw samples go")
    chosen = arguments.parse_args()
    count = chosen.samples or (6 if chosen.quick else 30)
    report = {"machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()}}
    with tempfile.TemporaryDirectory(prefix="colibri-bench-") as directory:
        for part in (with_tiers, from_disk, one_processor, without_anything):
            part(report, Path(directory), count, chosen.classes)
            # Of a run that is cut off, what was measured is kept.
            chosen.report.write_text(json.dumps(report, indent=2) + "\n")
    report["targets"] = targets(report)
    chosen.report.write_text(json.dumps(report, indent=2) + "\n")
    summarize(report)
    print(f"\nraw samples in {chosen.report}")


def targets(report):
    """Name, measured, target, held."""
    cold = report["cold_boot_ms"]["p50"]
    sizes = [found["p50"] for found in report["wake_by_memory_mib"].values()]
    wanted = [
        (f"{name}: cold boot / median", round(cold / report[key]["p50"], 1), ">=", least)
        for name, key, least in (
            ("launch from the pool", "launch_from_pool_ms", 80),
            ("launch without pool", "launch_from_disk_ms", 20),
            ("wake from the hot tier", "wake_from_hot_tier_ms", 100),
            ("wake from the disk", "wake_from_disk_ms", 25),
        )
    ]
    wanted += [
        ("stop of the world, 16 MiB dirtied, ms", report["suspend_by_dirty_mib"][16]["stopped_ms"]["p50"], "<", 50),
        ("wake, slowest / fastest over the memory sizes", round(max(sizes) / min(sizes), 2), "<=", 1.25),
        ("delta of an idle MicroVM, MiB", round(report["idle_delta_bytes"]["median"] / 2**20, 1), "<", 24),
    ]
    holds = {">=": lambda a, b: a >= b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b}
    return [
        {"what": what, "measured": measured, "target": f"{sign} {bound}", "held": holds[sign](measured, bound)}
        for what, measured, sign, bound in wanted
    ]


def summarize(report):
    print(f"\n{'':28} {'p50':>9} {'p90':>9} {'p99':>9}   cold boot / p50")
    cold = report["cold_boot_ms"]["p50"]
    for name, found in report.items():
        if isinstance(found, dict) and "p50" in found:
            print(f"{name:28} {found['p50']:9} {found['p90']:9} {found['p99']:9}   {cold / found['p50']:.1f}")
    own = report["qemus_own"]
    print(
        f"QEMU's own migration to a file: saved in {own['save_ms']['p50']} ms, {own['bytes'] / 2**20:.0f} MiB, "
        f"loaded in {own['loaded_ms']['p50']} ms, restored to the first answer in {own['restore_ms']['p50']} ms"
    )
    crowd = report["suspended_crowd"]
    private = max(report["clones"]["private_bytes"])
    print(
        f"suspended: {crowd['bytes_each'] / 2**20:.1f} MiB on disk each, daemon "
        f"{crowd['daemon_bytes_each'] / 1024:.0f} KiB each; running clones: {private / 2**20:.1f} MiB private at most"
    )
    print(f"\n{'target':46} {'measured':>9} {'wanted':>9}   held")
    for target in report["targets"]:
        print(f"{target['what']:46} {target['measured']:9} {target['target']:>9}   {'yes' if target['held'] else 'NO'}")


if __name__ == "__main__":
    main()
