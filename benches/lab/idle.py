"""Memory at rest: what a connection costs a proxy while nothing happens on it, and what of that comes back.

Each proxy is started anew for each kind of connection. It is warmed with some of them, read, given the
connections, read again when it is steady, and once more when they are gone. The figure is the difference
for each connection: memory of the proxy's own processes, not of the kernel, whose sockets all have alike.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import clients
import load
import targets
from clients import Conversation, Crowd
from load import Load, Request
from machine import Failure, Server, own_memory_kib
from targets import Launch, Site, Target

WARM_CONNECTIONS = 200
WARM_REQUESTS_SECONDS = 1
# Steady: for so many readings, half a second apart, memory moved by no more than that.
READINGS = 6
PAUSE_SECONDS = 0.5
MOVE = 0.002
STEADY_SECONDS_MAX = 60
# Memory comes back when something happens, in allocators and collectors alike: afterwards some requests go
# on, as they would. At least so long, since collectors take their time.
REST_SECONDS_MIN = 10
REST_RATE = 20
# Requests while sockets rest: few enough for each to be alone.
RATE = 500
RATE_SECONDS = 10
RATE_CONNECTIONS = 4
# Descriptors of a proxy that are not connections at rest.
DESCRIPTORS_BESIDE = 512

EVENTS = Request("/api/quiet/events", headers={**targets.HEADERS, "Accept": "text/event-stream"})
SOCKET = Request("/api/quiet/socket", headers={**targets.HEADERS, **clients.upgrade_headers()})


@dataclass(frozen=True)
class Idle:
    """A kind of connection at rest."""

    name: str
    title: str
    short: str  # for the head of a column
    converse: Callable[[str, bytes], Conversation]  # of the host and the body that an item has
    address: Callable[[Launch], str] = lambda launch: launch.address
    tls: bool = False
    asked_meanwhile: bool = False  # requests are timed without them, and with them


SCENARIOS = [
    Idle(
        "idle-http",
        "idle HTTP/1.1 connections, one request each",
        "HTTP/1.1",
        lambda host, item: clients.request_once(host, targets.ITEM, item),
    ),
    Idle(
        "idle-tls",
        "idle TLS connections, one request each",
        "TLS",
        lambda host, item: clients.request_once(host, targets.ITEM, item),
        lambda launch: launch.tls_address,
        tls=True,
    ),
    Idle(
        "idle-h2",
        "idle HTTP/2 connections without TLS, one request each",
        "HTTP/2",
        lambda host, item: clients.request_once_h2(host, targets.ITEM, item),
        lambda launch: launch.h2_address,
    ),
    Idle(
        "idle-events",
        "event streams, one event each",
        "event streams",
        lambda host, _: clients.event_stream(host, EVENTS),
    ),
    Idle(
        "idle-sockets",
        "WebSockets, one message each",
        "WebSockets",
        lambda host, _: clients.web_socket(host, SOCKET),
        asked_meanwhile=True,
    ),
]


@dataclass(frozen=True)
class Rest:
    """What one target held, in KiB of memory."""

    connections: int
    before_kib: float
    open_kib: float
    closed_kib: float
    alone: Load | None = None  # requests while nothing rests …
    among: Load | None = None  # … and while all do

    @property
    def each_kib(self) -> float:
        return (self.open_kib - self.before_kib) / self.connections

    @property
    def left(self) -> float:
        """Memory after closing, as a multiple of that before."""
        return self.closed_kib / self.before_kib

    def as_json(self) -> dict[str, object]:
        loads = {name: it and vars(it) for name, it in (("alone", self.alone), ("among", self.among))}
        return {**vars(self), **loads, "each_kib": self.each_kib, "left": self.left}


def affordable(wanted: int, descriptors: int) -> int:
    """How many can rest: a proxy has two descriptors for each that it passes on."""
    return max(1, min(wanted, (descriptors - DESCRIPTORS_BESIDE) // 2))


def measure(
    site: Site,
    target: Target,
    idle: Idle,
    count: int,
    start: Callable[[str, Launch, int], Server],
    cores: tuple[int, int],
) -> Rest:
    """One target and one kind. `start` starts a server that lives until the caller ends it."""
    proxy_core, load_core = cores
    [address] = targets.addresses(1)
    start(f"quiet-{target.name}-{idle.name}", targets.quiet(address), load_core)
    site = replace(site, quiet=address, clients_max=count + DESCRIPTORS_BESIDE // 4, prefix=f"{idle.name}-")
    launch = target.launch(site)
    server = start(f"{target.name}-{idle.name}", launch, proxy_core)
    status, item = load.fetch(site.upstream, targets.ITEM)
    if status != 200:
        raise Failure(f"the upstream answers {status}")
    tls = load.trusting(site.run) if idle.tls else None
    host = idle.address(launch)

    def crowd() -> Crowd:
        return Crowd(host, lambda: idle.converse(host, item), tls)

    def asked(rate: int, seconds: int) -> Load:
        return ask(launch.address, rate, seconds, load_core)

    with named(target, idle):
        with contextlib.closing(crowd()) as warming:
            warming.open(min(WARM_CONNECTIONS, count))
        asked(RATE, WARM_REQUESTS_SECONDS)
        alone = asked(RATE, RATE_SECONDS) if idle.asked_meanwhile else None
        before = steady(server)
        with contextlib.closing(crowd()) as resting:
            resting.open(count)
            open_kib = steady(server)
            among = asked(RATE, RATE_SECONDS) if idle.asked_meanwhile else None
            if lost := resting.lost():
                raise Failure(f"{lost} of {count} connections at rest were closed")
        asked(REST_RATE, REST_SECONDS_MIN)
        closed = steady(server)
    if not server.alive():
        raise Failure(f"{target.name} has ended:\n{server.last_words()}")
    return Rest(count, before, open_kib, closed, alone, among)


@contextlib.contextmanager
def named(target: Target, idle: Idle):
    try:
        yield
    except Failure as failure:
        raise Failure(f"{target.name}, {idle.name}: {failure}") from failure


def ask(address: str, rate: int, seconds: int, core: int) -> Load:
    argv = load.paced_command(address, targets.ITEM, RATE_CONNECTIONS, seconds, rate=rate)
    argv = ["taskset", "-c", str(core), *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise Failure(f"requests fail: {done.stderr[-300:]}")
    result = load.paced_result(done.stdout)
    if result.errors:
        raise Failure(f"{result.errors} of {result.requests} requests fail")
    return result


def steady(server: Server) -> float:
    """Memory in KiB, once it does not move."""
    readings: list[float] = []
    deadline = time.monotonic() + STEADY_SECONDS_MAX
    while time.monotonic() < deadline:
        readings.append(own_memory_kib(server.pids()))
        last = readings[-READINGS:]
        if len(last) == READINGS and max(last) - min(last) <= MOVE * max(last):
            break
        time.sleep(PAUSE_SECONDS)
    return readings[-1]
