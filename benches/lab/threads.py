#!/usr/bin/env python3
"""How Moongate scales from one worker thread to two.

On a machine of two cores the load has to share them, so requests a second can't double, whatever the proxy does. What can be
measured is what a request costs each time: with two threads twice the CPU time is there, and they do
2 × (cost with one) ÷ (cost with two) of what one does. Both run on both cores, as the load and the upstream do, in turn,
with as many connections. Needs a release build, nginx and wrk:

    benches/lab/threads.py [--rounds 7] [--seconds 3] [--binary target/release/moongate]
"""

import argparse
import contextlib
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import load
import targets
from bench import start
from machine import Server, cpu_seconds, description, raise_descriptors, require
from targets import Launch, Site

CONNECTIONS = 64
BOTH_CORES = "0,1"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--binary", type=Path, default=Path("target/release/moongate"))
    return parser.parse_args()


def launch(site: Site, threads: int) -> Launch:
    """As in the bench, but for the number of threads."""
    it = targets.moongate(f"moongate-{threads}")(site)
    config = Path(it.argv[it.argv.index("--config") + 1])
    text, found = re.subn(r"^threads: 1$", f"threads: {threads}", config.read_text(), flags=re.MULTILINE)
    assert found == 1, "the configuration says how many threads there are"
    config.write_text(text)
    return it


def measure(server: Server, address: str, run: Path, seconds: int) -> tuple[float, float]:
    """(requests a second, microseconds of CPU time a request)."""
    before = sum(cpu_seconds(server.pids()))
    argv = load.wrk_command(address, targets.ITEM, CONNECTIONS, seconds, run)
    out = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
    result = load.wrk_result(out)
    assert result.errors == 0, out
    server.trim_log()
    return result.rate, (sum(cpu_seconds(server.pids())) - before) / result.requests * 1e6


def main() -> None:
    chosen = options()
    require({"wrk": "wrk", "nginx": "nginx-light"})
    raise_descriptors()
    run = Path(tempfile.mkdtemp(prefix="moongate-threads-"))
    run.chmod(0o755)  # nginx answers as another user
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, run, ignore_errors=True)
        targets.certify(run)
        site = Site(run=run, upstream=targets.addresses(1)[0], moongate=chosen.binary.resolve())
        upstream = targets.upstream(site)
        launches = {threads: launch(site, threads) for threads in found}
        start(stack, site, "upstream", upstream, BOTH_CORES)
        servers = {n: start(stack, site, f"moongate-{n}", it, BOTH_CORES) for n, it in launches.items()}
        for threads, it in launches.items():
            measure(servers[threads], it.address, run, 1)
        for number in range(chosen.rounds):
            for threads in sorted(found, reverse=number % 2 == 1):
                found[threads].append(measure(servers[threads], launches[threads].address, run, chosen.seconds))
    print(description())
    print("| threads | requests/s | CPU µs/request |\n| --- | ---: | ---: |")
    costs = {}
    for threads, results in found.items():
        costs[threads] = [it[1] for it in results]
        rate, cost = (statistics.median(it[part] for it in results) for part in (0, 1))
        spread = f"{min(costs[threads]):.1f}–{max(costs[threads]):.1f}"
        print(f"| {threads} | {rate:.0f} | {cost:.1f} ({spread}) |")
    ratio = statistics.median(2 * one / two for one, two in zip(costs[1], costs[2]))
    print(f"\nTwo threads do {ratio:.2f} times what one does (asked: 1.8).")


if __name__ == "__main__":
    main()
