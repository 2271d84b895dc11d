#!/usr/bin/env python3
"""What a request, and a connection at rest, cost in Moongate, beside bare Pingora and other proxies.

All proxies run at once, each on the same single core; the load generator and the upstream have
another. They are measured in turn, round after round, so that a drift of the machine falls on all
alike. The figure to trust is CPU time per request: user and system time of the proxy's own
processes over a run, divided by the requests of that run. docs/PERFORMANCE.md tells the rest.

Connections at rest (`--scenario idle`) are another matter: memory of each, see idle.py.

Needs Linux, two cores, and the Debian packages nginx-light, haproxy, wrk, nghttp2-client and openssl.
Envoy, Traefik and Caddy take part where `scripts/setup.sh bench` has put them.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import idle
import load
import report
import targets
from load import Load
from machine import (
    Failure,
    Server,
    cpu_seconds,
    description,
    forget_peaks,
    machine_seconds,
    peak_rss_mib,
    raise_descriptors,
    require,
    wait_for_quiet,
    waiting_seconds,
    which,
)
from idle import Idle, Rest
from report import Run
from targets import PEERS, SCENARIOS, TARGETS, Launch, Scenario, Site, Target

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 15
CONNECTIONS, CONNECTIONS_QUICK = 10_000, 2_000
TOOLS = {
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "nghttp": "nghttp2-client",
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "openssl": "openssl",
    "taskset": "util-linux",
    "setpriv": "util-linux",
}


# ---- options -----------------------------------------------------------------------------------


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [it.name for it in TARGETS]
    requests, idles = [it.name for it in SCENARIOS], [it.name for it in idle.SCENARIOS]
    # "requests" and "idle" are all of a family.
    scenarios = ["requests", *requests, "idle", *idles]
    parser.add_argument("--only", nargs="+", choices=names, metavar="TARGET", help=", ".join(names))
    parser.add_argument("--scenario", nargs="+", choices=scenarios, metavar="NAME", help=", ".join(scenarios))
    parser.add_argument("--rounds", type=int, default=5, help="runs of every target (%(default)s)")
    parser.add_argument("--seconds", type=int, default=2, help="length of a run (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a look of a minute: not for quoting")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every single run, for further use")
    parser.add_argument("--without-moongate", action="store_true", help="only the others")
    parser.add_argument("--moongate", type=Path, metavar="BINARY", help="(target/release/moongate)")
    parser.add_argument(
        "--baseline", type=Path, metavar="BINARY", help="another Moongate, in the same run as moongate-before"
    )
    parser.add_argument(
        "--connections", type=int, metavar="N", help=f"at rest ({CONNECTIONS}; quick: {CONNECTIONS_QUICK})"
    )
    parser.add_argument(
        "--calm", type=int, default=30, metavar="S", help="from the end of all at rest to reading memory (%(default)s)"
    )
    parser.add_argument("--bare", type=Path, metavar="BINARY", help="(built by cargo bench --bench bare)")
    parser.add_argument("--proxy-core", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--load-core", type=int, default=0, help="of load and upstream (%(default)s)")
    parser.add_argument(
        "--noise", type=float, default=0.15, help="cores of other work that a run may see (%(default)s)"
    )
    parser.add_argument("--patience", type=float, default=20, help="seconds to wait for quiet (%(default)s)")
    parser.add_argument("--retries", type=int, default=3, help="of a disturbed run (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave configurations and logs behind")
    options = parser.parse_args()
    if min(options.rounds, options.seconds, options.calm) < 1 or options.retries < 0:
        parser.error("--rounds, --seconds and --calm are at least 1, --retries at least 0")
    if options.connections is not None and options.connections < 1:
        parser.error("--connections is at least 1")
    options.connections = options.connections or (CONNECTIONS_QUICK if options.quick else CONNECTIONS)
    asked = set(options.scenario or ["requests", "idle"])
    if options.quick:
        options.rounds, options.seconds, options.retries, options.patience = 1, 1, 0, 0.0
        asked = set(options.scenario or [it.name for it in SCENARIOS if it.quick])
    options.requests = [it for it in SCENARIOS if {it.name, "requests"} & asked]
    options.idles = [it for it in idle.SCENARIOS if {it.name, "idle"} & asked]
    return options


# ---- binaries ----------------------------------------------------------------------------------


def target_folder() -> Path:
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


def find_moongate(options: argparse.Namespace) -> Path | None:
    if options.without_moongate:
        return None
    path = (options.moongate or target_folder() / "release" / "moongate").resolve()
    if path.is_file():
        return path
    if options.moongate:
        raise Failure(f"{path}: no such file")
    say(f"MOONGATE IS LEFT OUT: there is no {path}; build it with `cargo build --release`")
    return None


def find_baseline(options: argparse.Namespace) -> Path | None:
    if options.baseline and not options.baseline.is_file():
        raise Failure(f"{options.baseline}: no such file")
    return options.baseline and options.baseline.resolve()


def find_peers(options: argparse.Namespace) -> Path:
    """Where scripts/setup.sh puts the peers that no Debian package brings."""
    folder = target_folder() / "peers" / "bin"
    wanted = [it for it in PEERS if not options.only or any(name.startswith(it) for name in options.only)]
    if missing := [it for it in wanted if not (folder / it).exists()]:
        say(f"LEFT OUT: {', '.join(missing)}: not in {folder}; `scripts/setup.sh bench` installs them")
    return folder


def find_bare(options: argparse.Namespace) -> Path:
    """Builds bare Pingora if need be. Cargo puts a hash into the name, so it is asked for it."""
    if options.bare:
        if not options.bare.is_file():
            raise Failure(f"{options.bare}: no such file")
        return options.bare.resolve()
    say("building bare Pingora (cargo bench --bench bare --no-run)")
    argv = ["cargo", "bench", "--locked", "--bench", "bare", "--no-run", "--message-format=json"]
    built = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise Failure("bare Pingora does not build")
    for message in map(json.loads, built.stdout.splitlines()):
        if message.get("executable") and message["target"]["name"] == "bare":
            return Path(message["executable"])
    raise Failure("cargo did not say where it put bare Pingora")


# ---- servers -----------------------------------------------------------------------------------


def start(stack: contextlib.ExitStack, site: Site, name: str, launch: Launch, core: int | str) -> Server:
    """A server that answers, and that lives as long as the stack."""
    server = Server(name, launch.argv, core, launch.env, site.run)
    stack.callback(server.stop)
    deadline = time.monotonic() + START_SECONDS
    while True:
        status, body = load.fetch(launch.address, targets.ITEM)
        if status == 200:
            return server
        if not server.alive() or time.monotonic() > deadline:
            told = server.last_words() or body[:200].decode(errors="replace")
            state = "runs" if server.alive() else f"ended with code {server.process.returncode}"
            raise Failure(f"{server.name} does not serve (status {status}, it {state}):\n{told}")
        time.sleep(0.1)


# ---- the bench ---------------------------------------------------------------------------------


class Bench:
    """The servers of this run, and what was measured on them."""

    def __init__(self, options: argparse.Namespace, site: Site, stack: contextlib.ExitStack):
        self.options = options
        self.site = site
        self.stack = stack
        self.started: dict[str, tuple[Server, Launch]] = {}
        self.upstream = self.start("upstream", targets.upstream(site), options.load_core)

    def start(self, name: str, launch: Launch, core: int) -> Server:
        server = start(self.stack, self.site, name, launch, core)
        self.started[name] = server, launch
        return server

    def find(self, target: Target) -> tuple[Server, Launch]:
        """The target's server; a target is started when a scenario first asks for it."""
        if target.launch is None:
            return self.started["upstream"]
        if target.name not in self.started:
            self.start(target.name, target.launch(self.site), self.options.proxy_core)
        return self.started[target.name]

    def run(self, scenario: Scenario, chosen: list[Target]) -> dict[str, list[Run]]:
        """Checks and warms all, then measures them in turn. Who begins changes from round to round:
        each run leaves caches and clock rates behind, and nobody shall always follow the same one."""
        for target in chosen:
            self.check(target, scenario)
        for target in chosen:
            self.load(self.find(target)[1], scenario, seconds=1)
        runs: dict[str, list[Run]] = {target.name: [] for target in chosen}
        for number in range(self.options.rounds):
            shift = number % len(chosen)
            for target in chosen[shift:] + chosen[:shift]:
                run = self.measure(target, scenario)
                runs[target.name].append(run)
                say(
                    f"{scenario.name} {number + 1}/{self.options.rounds} {target.name}: "
                    f"{run.load.rate:.0f}/s, {run.cpu_us:.1f} µs, others {run.disturbance:.2f}"
                )
        return runs

    def check(self, target: Target, scenario: Scenario) -> None:
        """A proxy that answers wrongly, or does not do its work, is not worth a measurement."""
        server, launch = self.find(target)
        expected = load.fetch(self.site.upstream, scenario.request)
        if scenario.tls:
            answer = load.fetch(launch.tls_address, scenario.request, tls=load.trusting(self.site.run))
        else:
            answer = load.fetch(launch.address, scenario.request)
        if expected[0] != 200 or answer != expected:
            raise Failure(f"{target.name}, {scenario.name}: answers {answer[0]} {answer[1][:200]!r}")
        if scenario.streams and load.fetch_h2(launch.h2_address, scenario.request) != expected[1]:
            raise Failure(f"{target.name}, {scenario.name}: wrong answer over HTTP/2")
        if target.checks_token:
            status, _ = load.fetch(launch.address, scenario.request, without="Authorization")
            if status != 401:
                raise Failure(f"{target.name}: answers {status} without a token, not 401")
        if not server.alive():
            raise Failure(f"{target.name} has ended:\n{server.last_words()}")

    def measure(self, target: Target, scenario: Scenario) -> Run:
        """One run. While others disturb it, it is repeated, and the quietest try counts."""
        tries: list[Run] = []
        for _ in range(1 + self.options.retries):
            wait_for_quiet(self.options.patience, self.options.noise)
            tries.append(self.measure_once(target, scenario))
            if tries[-1].disturbance <= self.options.noise:
                break
        return min(tries, key=lambda it: it.disturbance)

    def measure_once(self, target: Target, scenario: Scenario) -> Run:
        server, launch = self.find(target)
        pids, upstream_pids = server.pids(), self.upstream.pids()
        forget_peaks(pids)

        def clocks() -> tuple[float, ...]:
            ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            return (
                *cpu_seconds(pids),
                # The upstream may be the target: its time is not to be counted twice.
                sum(cpu_seconds(upstream_pids)) if server is not self.upstream else 0.0,
                sum(it.ru_utime + it.ru_stime for it in ours),
                *machine_seconds(),
                waiting_seconds(pids),
                time.monotonic(),
            )

        before = clocks()
        out = self.load(launch, scenario, self.options.seconds)
        spent = (b - a for a, b in zip(before, clocks()))
        user, system, upstream, ours, busy, stolen, waited, wall = spent
        result = self.result(out, scenario)
        if not result.requests:
            raise Failure(f"{target.name}, {scenario.name}: no request was answered")
        run = Run(
            load=result,
            user_us=user * 1e6 / result.requests,
            system_us=system * 1e6 / result.requests,
            rss_mib=peak_rss_mib(pids),
            # Not cut off at zero: a median well below it would say that this gauge misses something.
            noise=(busy - user - system - upstream - ours) / wall,
            stolen=stolen / wall,
            waited=waited / wall,
        )
        server.trim_log()
        return run

    def load(self, launch: Launch, scenario: Scenario, seconds: int) -> str:
        request, connections, run = scenario.request, scenario.connections, self.site.run
        if scenario.streams:
            address = launch.h2_address
            argv = load.h2load_command(address, request, connections, scenario.streams, seconds, run)
        elif scenario.segments:
            argv = load.paced_command(launch.address, request, connections, seconds, segments=scenario.segments)
        elif scenario.fresh:
            trusted = str(run / "tls.pem")
            argv = load.paced_command(launch.tls_address, request, connections, seconds, trusted=trusted)
        elif scenario.tls:
            argv = load.wrk_command(launch.tls_address, request, connections, seconds, run, scheme="https")
        else:
            argv = load.wrk_command(launch.address, request, connections, seconds, run)
        argv = ["taskset", "-c", str(self.options.load_core), *argv]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
        if done.returncode != 0:
            raise Failure(f"{' '.join(argv[3:5])} … failed:\n{done.stderr or done.stdout}")
        return done.stdout

    def result(self, out: str, scenario: Scenario) -> Load:
        if scenario.streams:
            return load.h2load_result(out, self.site.run)
        ours = scenario.segments or scenario.fresh
        return load.paced_result(out) if ours else load.wrk_result(out)


# ---- connections at rest -----------------------------------------------------------------------


class IdleBench:
    """What connections at rest cost, one target after the other, each with upstreams that are new: the
    kernel remembers ports of closed connections for a minute."""

    def __init__(self, options: argparse.Namespace, site: Site):
        self.options = options
        self.site = site
        descriptors = raise_descriptors()
        self.count = idle.affordable(options.connections, descriptors)
        if self.count < options.connections:
            say(f"{self.count} connections instead of {options.connections}: the limit is {descriptors} open files")

    def run(self, scenario: Idle, chosen: list[Target]) -> dict[str, Rest]:
        rests = {}
        for target in chosen:
            rest = rests[target.name] = self.measure(scenario, target)
            say(f"{scenario.name} {target.name}: {rest.each_kib:.2f} KiB each, {rest.left:.2f} after closing")
        return rests

    def measure(self, scenario: Idle, target: Target) -> Rest:
        proxy_core, load_core = self.options.proxy_core, self.options.load_core
        upstream, quiet = targets.addresses(2)
        site = replace(self.site, upstream=upstream)
        name = f"{target.name}-{scenario.name}"
        with contextlib.ExitStack() as stack:
            start(stack, site, f"{name}-upstream", targets.upstream(site), load_core)
            start(stack, site, f"{name}-quiet", targets.quiet(quiet), load_core)
            launch = idle.prepared(site, target, scenario, self.count, quiet)
            server = start(stack, site, name, launch, proxy_core)
            try:
                subject = idle.Subject(site, scenario, server, launch, load_core, self.options.calm)
                return subject.measure(self.count)
            except Failure as failure:
                raise Failure(f"{target.name}, {scenario.name}: {failure}\n{server.last_words()}") from failure


# ---- the whole ---------------------------------------------------------------------------------


def present(options: argparse.Namespace, site: Site) -> list[Target]:
    there = [it for it in TARGETS if site.has(it)]
    return [it for it in there if not options.only or it.name in options.only]


def choose(options: argparse.Namespace, site: Site) -> list[tuple[Scenario, list[Target]]]:
    """The scenarios asked for, each with the targets that take part in it."""
    there = present(options, site)
    plan = []
    for scenario in options.requests:
        if chosen := [it for it in there if it.takes_part(scenario)]:
            plan.append((scenario, chosen))
        else:
            say(f"scenario {scenario.name} is left out: none of its targets is there")
    return plan


def versions(site: Site) -> str:
    """Who was measured, in one line."""

    def first_line(*argv: str) -> str:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return (done.stdout.strip() or "?").splitlines()[0]

    found = [first_line(which("nginx"), "-v"), first_line(which("haproxy"), "-v")]
    asked = {"envoy": "--version", "traefik": "version", "caddy": "version"}
    for name, word in asked.items():
        if (program := site.peers / name).exists():
            number = re.search(r"\d+\.\d+\.\d+", first_line(str(program), word))
            found.append(f"{name} {number[0] if number else '?'}")
    if site.moongate:
        found.append(first_line(str(site.moongate), "--version"))
    if site.baseline:
        found.append(f"before: {first_line(str(site.baseline), '--version')}")
    return "; ".join(found)


def headline(options: argparse.Namespace, site: Site) -> str:
    how = ""
    if options.requests:
        how = f" {options.rounds} rounds of {options.seconds} s, interleaved; cells are median (min–max)."
    note = " **A quick look: not for quoting.**" if options.quick else ""
    return f"Machine: {description()}. {versions(site)}.{how}{note}\n"


def bench(options: argparse.Namespace, run: Path) -> None:
    require(TOOLS)
    cores = os.sched_getaffinity(0)
    if not {options.proxy_core, options.load_core} <= cores or options.proxy_core == options.load_core:
        raise Failure(f"two different cores are needed for proxy and load, out of {sorted(cores)}")
    [upstream] = targets.addresses(1)
    site = Site(
        run,
        upstream,
        moongate=find_moongate(options),
        baseline=find_baseline(options),
        peers=find_peers(options),
    )
    targets.certify(run)
    plan = choose(options, site)
    if any(target.name.startswith("bare") for _, chosen in plan for target in chosen):
        site.bare = find_bare(options)
    print(headline(options, site), flush=True)
    record = {"machine": description(), "versions": versions(site), "scenarios": {}, "idle": {}}
    with contextlib.ExitStack() as stack:
        if plan:
            measure_requests(Bench(options, site, stack), plan, record)
    if options.idles:
        measure_idle(IdleBench(options, site), present(options, site), record)


def measure_requests(bench: Bench, plan: list[tuple[Scenario, list[Target]]], record: dict) -> None:
    for scenario, chosen in plan:
        runs = bench.run(scenario, chosen)
        print(report.table(scenario, runs, TARGETS, bench.options.noise), flush=True)
        record["scenarios"][scenario.name] = {name: [it.as_json() for it in its] for name, its in runs.items()}
        save(bench.options, record)


def measure_idle(bench: IdleBench, there: list[Target], record: dict) -> None:
    chosen = [it for it in there if it.rests]
    found: dict[str, dict[str, Rest]] = {}
    for scenario in bench.options.idles if chosen else []:
        rests = found[scenario.name] = bench.run(scenario, chosen)
        print(report.idle_table(scenario, bench.count, rests, TARGETS), flush=True)
        record["idle"][scenario.name] = {name: it.as_json() for name, it in rests.items()}
        save(bench.options, record)
    if len(found) > 1:
        print(report.idle_summary(bench.options.idles, found, TARGETS), flush=True)


def save(options: argparse.Namespace, record: dict) -> None:
    """After every scenario: an aborted run keeps what it has."""
    if options.json:
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    options = parse_options()
    # A polite kill unwinds like Ctrl-C, so that everything started is stopped. Ctrl-C itself is set
    # too, since a shell that starts us in the background has it ignored.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = Path(tempfile.mkdtemp(prefix="moongate-bench-"))
    run.chmod(0o755)  # nginx started by root reads its files as somebody else
    try:
        bench(options, run)
    except Failure as failure:
        say(f"bench: {failure}")
        return 1
    except KeyboardInterrupt:
        say("bench: interrupted; everything that was started is stopped")
        return 130
    finally:
        if options.keep:
            say(f"configurations and logs are in {run}")
        else:
            shutil.rmtree(run, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
