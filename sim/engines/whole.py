"""Prints what the engines did, and runs the whole simulator: events per second, memory, sweeps."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 5
ENGINES = ["clusterd-sim", "binary heap", "nexosim", "desru", "simpy"]


def engines(path):
    rows = [json.loads(line) for line in open(path)]
    rate = {(row["workload"], row["engine"]): row["events_per_s"] for row in rows}
    print("| million events per second | " + " | ".join(ENGINES) + " |")
    print("|---|" + "---|" * len(ENGINES))
    for workload in dict.fromkeys(row["workload"] for row in rows):
        cells = [f"{rate[workload, engine] / 1e6:.2f}" for engine in ENGINES]
        print(f"| {workload} | " + " | ".join(cells) + " |")


def run(simulator, hosts, seconds):
    """Events, seconds and bytes of one run."""
    words = [simulator, "run", "--json", "--set", f"cluster.hosts={hosts}"]
    words += ["--set", f"run.duration={seconds}s"]
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(words, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        took = time.perf_counter() - begun
        assert status == 0, words
        out.seek(0)
        figures = json.load(out)["runs"][0]["figures"]
    return figures["connections"], figures["events"], took, usage.ru_maxrss * 1024


def whole(simulator):
    print("\n| hosts | million events per second | events per connection | MB for a million connections |")
    print("|---|---|---|---|")
    for hosts, seconds in [(3, 100), (16, 30), (64, 10)]:
        runs = [run(simulator, hosts, seconds) for _ in range(ROUNDS)]
        connections, events, _, _ = runs[0]
        rate = statistics.median(events / took for _, events, took, _ in runs)
        # Tables of hosts grow until the first attempts are forgotten, after some ten seconds.
        fewer, _, _, less = run(simulator, hosts, max(seconds / 2, 15))
        more, _, _, most = run(simulator, hosts, max(seconds, 30))
        memory = (most - less) / (more - fewer)
        print(f"| {hosts} | {rate / 1e6:.2f} | {events / connections:.0f} | {memory:.0f} |")


def sweep(simulator):
    print("\n| processes of a sweep of 16 runs | seconds |")
    print("|---|---|")
    jobs = 1
    while jobs <= (os.cpu_count() or 1):
        times = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as out:
                words = [simulator, "sweep", "--over", "cluster.settle=0us,100us,200us,300us"]
                words += ["--runs", "4", "--jobs", str(jobs), "--out", out]
                begun = time.perf_counter()
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
                times.append(time.perf_counter() - begun)
        print(f"| {jobs} | {statistics.median(times):.2f} |")
        jobs *= 2


if __name__ == "__main__":
    engines(sys.argv[1])
    whole(sys.argv[2])
    sweep(sys.argv[2])
