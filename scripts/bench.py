"""Measures Colibri beside its comparisons, in one run: `make bench`.

Each figure is a client's: from the call sent to the answer received. Raw samples go to
target/bench.json; what is printed are medians and ratios, because machines are shared and noisy.
`--quick` takes a third of the samples.
"""

import argparse
import json
import os
import platform
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
from support.clients import AUTO_RESUME, HOOKS_ALL, Api, example, probe_application, wait_for  # noqa: E402
from support.daemon import Daemon  # noqa: E402

REPORT = REPOSITORY / "target" / "bench.json"
DIRTY_MIB = (1, 16, 64, 256)
SIZES_MIB = (512, 1024, 2048)
WITHOUT_TIERS = "[pool]\nenabled = false\n[hot]\nenabled = false\n"

say, milliseconds = demo.say, demo.milliseconds


def spread(samples):
    """Median, p90, p99 and the raw samples, milliseconds."""
    ordered = sorted(samples)

    def quantile(share):
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {
        "p50": round(statistics.median(ordered), 1),
        "p90": quantile(0.9),
        "p99": quantile(0.99),
        "samples": samples,
    }


def launches(api, image, count, between=0.0):
    """Call of RunMicrovm to the first answer, one after another."""
    samples = []
    for _ in range(count):
        time.sleep(between)
        begun = time.monotonic()
        microvm = api.run(image, wait=False, idlePolicy=AUTO_RESUME)
        demo.first_response(microvm)
        samples.append(milliseconds(begun))
        microvm.terminate()
    return samples


def wakes(api, image, count, before=lambda: None):
    """Request to a suspended MicroVM to its answer."""
    microvm = api.run(image, idlePolicy=AUTO_RESUME)
    demo.first_response(microvm)
    samples = []
    for _ in range(count):
        microvm.suspend()
        before()
        begun = time.monotonic()
        demo.first_response(microvm)
        samples.append(milliseconds(begun))
    microvm.terminate()
    return samples


def drop_page_cache():
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def suspends_by_dirty_pages(api, image):
    """Call of SuspendMicrovm to SUSPENDED, and the delta, against memory dirtied since the launch."""
    found = {}
    for mib in DIRTY_MIB:
        microvm = api.run(image, idlePolicy=AUTO_RESUME)
        microvm.get(f"/dirty?mib={mib}")
        begun = time.monotonic()
        microvm.suspend()
        took = milliseconds(begun)
        delta = api.daemon.data / "microvms" / microvm.id / "memory.delta"
        size = delta.stat().st_size
        begun = time.monotonic()
        microvm.get("/")
        found[mib] = {"suspend_ms": took, "delta_bytes": size, "wake_ms": milliseconds(begun)}
        say(f"{mib:4} MiB dirtied: suspend {took} ms, delta {size / 2**20:.1f} MiB, wake {found[mib]['wake_ms']} ms")
        microvm.terminate()
    return found


def wakes_by_size(api, count):
    """Wake from disk against the guest's memory, at equal dirty pages: flat, or something is wrong."""
    found = {}
    for size in SIZES_MIB:
        image = api.build(f"size-{size}", probe_application(), hooks=HOOKS_ALL, resources=[{"minimumMemoryInMiB": size}])
        microvm = api.run(image, idlePolicy=AUTO_RESUME)
        microvm.get("/dirty?mib=4")
        samples = []
        for _ in range(count):
            microvm.suspend()
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


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a third of the samples")
    count = 10 if arguments.parse_args().quick else 30
    report = {"machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()}}
    with tempfile.TemporaryDirectory(prefix="colibri-bench-") as directory:
        daemon = Daemon(Path(directory) / "tiers").start()
        try:
            api = Api(daemon)
            image = api.build("flask-counter", example("flask-counter"), hooks=demo.HOOKS)
            report["machine"] |= json.loads(demo.run_doctor(daemon))
            # Time for the pool to be filled again between launches: what a steady service sees.
            report["launch_from_pool_ms"] = spread(launches(api, image, count, between=2.0))
            report["launch_back_to_back_ms"] = spread(launches(api, image, count))
            report["wake_from_hot_tier_ms"] = spread(wakes(api, image, count))
            report["cold_boot_ms"] = spread([demo.measure_cold_boot(api, image) for _ in range(3)])
            twenty = launch_at_once(api, image, 20)
            report["twenty_at_once_ms"] = {"median": round(statistics.median(twenty), 1), "last": max(twenty)}
            say(f"20 launches at once: median {report['twenty_at_once_ms']['median']} ms, last {max(twenty)} ms")
            api.terminate_all()
        finally:
            daemon.stop()
        daemon = Daemon(Path(directory) / "plain", WITHOUT_TIERS).start()
        try:
            api = Api(daemon)
            image = api.build("flask-counter", example("flask-counter"), hooks=demo.HOOKS)
            report["launch_from_disk_ms"] = spread(launches(api, image, count))
            report["wake_from_disk_ms"] = spread(wakes(api, image, count))
            report["wake_cold_page_cache_ms"] = spread(wakes(api, image, max(3, count // 5), drop_page_cache))
            report["suspended_crowd"] = suspended_crowd(api, image, count=50)
            report["clones"] = demo.measure_clones(api, image)
            probe = api.build("probe", probe_application(), hooks=HOOKS_ALL)
            report["suspend_by_dirty_mib"] = suspends_by_dirty_pages(api, probe)
            report["wake_by_class_mib"] = wakes_by_size(api, max(5, count // 3))
            wait_for("nothing left", lambda: not daemon.leftovers()["directories"])
        finally:
            daemon.stop()
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    summarize(report)


def summarize(report):
    cold = report["cold_boot_ms"]["p50"]
    print(f"\ncold boot to first answer: {cold} ms")
    for name in (
        "launch_from_pool_ms",
        "launch_back_to_back_ms",
        "launch_from_disk_ms",
        "wake_from_hot_tier_ms",
        "wake_from_disk_ms",
        "wake_cold_page_cache_ms",
    ):
        found = report[name]
        ratio = cold / found["p50"]
        print(f"{name:26} p50 {found['p50']:8} p90 {found['p90']:8} p99 {found['p99']:8}   cold boot / p50 = {ratio:.0f}")
    crowd = report["suspended_crowd"]
    print(f"suspended: {crowd['bytes_each'] / 2**20:.1f} MiB on disk each, daemon {crowd['daemon_bytes_each'] / 1024:.0f} KiB each")
    print(f"raw samples in {REPORT}")


if __name__ == "__main__":
    main()
