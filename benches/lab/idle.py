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

WARM_CONNECTIONS = 100
WARM_SECONDS = 1
# Steady: for so many readings, half a second apart, memory moved by no more than that.
READINGS = 6
PAUSE_SECONDS = 0.5
MOVE = 0.002
STEADY_SECONDS_MAX = 60
# Memory comes back when something happens, in allocators and collectors alike, and not at once: before the
# first reading and, for longer (--calm), before the last, some requests go on, as they would.
CALM_SECONDS = 10
CALM_RATE = 20
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


def prepared(site: Site, target: Target, idle: Idle, count: int, quiet: str) -> Launch:
    """The target with routes to the quiet upstream and room for so many clients."""
    room = count + DESCRIPTORS_BESIDE // 4
    return target.launch(replace(site, quiet=quiet, clients_max=room, prefix=f"{idle.name}-"))


class Subject:
    """A started target, and what is done to it."""

    def __init__(self, site: Site, idle: Idle, server: Server, launch: Launch, load_core: int, calm: int):
        self.site = site
        self.idle = idle
        self.server = server
        self.launch = launch
        self.load_core = load_core
        self.calm_seconds = calm
        status, self.item = load.fetch(site.upstream, targets.ITEM)
        if status != 200:
            raise Failure(f"the upstream answers {status}")

    def measure(self, count: int) -> Rest:
        with contextlib.closing(self.crowd()) as warming:
            warming.open(min(WARM_CONNECTIONS, count))
        self.ask(RATE, WARM_SECONDS)
        alone = self.ask(RATE, RATE_SECONDS) if self.idle.asked_meanwhile else None
        before = self.calm(CALM_SECONDS)
        with contextlib.closing(self.crowd()) as resting:
            resting.open(count)
            held = steady(self.server)
            among = self.ask(RATE, RATE_SECONDS) if self.idle.asked_meanwhile else None
            if lost := resting.lost():
                raise Failure(f"{lost} of {count} connections at rest were closed")
        return Rest(count, before, held, self.calm(self.calm_seconds), alone, among)

    def crowd(self) -> Crowd:
        address = self.idle.address(self.launch)
        tls = load.trusting(self.site.run) if self.idle.tls else None
        return Crowd(address, lambda: self.idle.converse(address, self.item), tls)

    def calm(self, seconds: int) -> float:
        self.ask(CALM_RATE, seconds)
        return steady(self.server)

    def ask(self, rate: int, seconds: int) -> Load:
        argv = load.paced_command(self.launch.address, targets.ITEM, RATE_CONNECTIONS, seconds, rate=rate)
        argv = ["taskset", "-c", str(self.load_core), *argv]
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
