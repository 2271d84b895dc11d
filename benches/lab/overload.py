#!/usr/bin/env python3
"""What becomes of important requests while an upstream gets twice what it can do (R5.2).

The upstream works on so many requests at once, each for 20 ms give or take half of that (`--spread`), and lets the others
wait: so what it can sustain is known. First requests of priority `therapeutic` come alone, then beside so many of `normal` and `background` that
all together are twice of that. They come when they are due, whether or not others have been answered (an open loop), and
their time counts from when they were due. Needs a release build and nothing but Python's standard library:

    benches/lab/overload.py [--seconds 20] [--binary target/release/moongate]

Ends with 1 if the 99th percentile of therapeutic requests is more than twice what it is without load, if one of them is
shed, or if anything that is shed gets something else than 503 with Retry-After.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

AT_ONCE = 10
SERVICE_SECONDS = 0.02
SUSTAINED = AT_ONCE / SERVICE_SECONDS  # requests a second
# Parts of all that comes at twice what can be sustained.
SHARES = {"therapeutic": 0.1, "normal": 0.4, "background": 0.5}
WARM_UP_SECONDS = 5
PATIENCE_SECONDS = 10
HEAD_END = b"\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server(asyncio.Protocol):
    """One connection of the upstream, one request at a time."""

    def __init__(self, room: asyncio.Semaphore, spread: float):
        self.room, self.spread, self.data = room, spread, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        while HEAD_END in self.data:
            _, _, self.data = self.data.partition(HEAD_END)
            asyncio.ensure_future(self.answer())

    async def answer(self):
        async with self.room:
            await asyncio.sleep(SERVICE_SECONDS * random.uniform(1 - self.spread, 1 + self.spread))
        self.transport.write(ANSWER)


def serve(listener: socket.socket, spread: float) -> None:
    async def run():
        room = asyncio.Semaphore(AT_ONCE)
        server = await asyncio.get_running_loop().create_server(lambda: Server(room, spread), sock=listener)
        await server.serve_forever()

    asyncio.run(run())


class Connection(asyncio.Protocol):
    """One connection to the gateway, one request at a time."""

    def __init__(self):
        self.data, self.waiting = b"", None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        head, end, body = self.data.partition(HEAD_END)
        if end and len(body) >= length(head) and self.waiting and not self.waiting.done():
            self.data = b""
            self.waiting.set_result(head)

    def connection_lost(self, _):
        if self.waiting and not self.waiting.done():
            self.waiting.set_exception(ConnectionError("closed before the end of an answer"))

    async def ask(self, request: bytes) -> bytes:
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await asyncio.wait_for(self.waiting, PATIENCE_SECONDS)


def length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@dataclass
class Seen:
    """What came of the requests of one priority."""

    times: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    without_retry_after: int = 0

    def percentile(self, part: float) -> float:
        """In milliseconds."""
        times = sorted(self.times)
        return times[min(int(len(times) * part), len(times) - 1)] * 1000 if times else float("nan")

    @property
    def shed(self) -> int:
        return self.statuses[503]


async def load(port: int, rates: dict[str, float], seconds: float) -> dict[str, Seen]:
    """So many requests a second of each priority, evenly spread."""
    loop = asyncio.get_running_loop()
    seen = {name: Seen() for name in rates}
    idle, tasks = deque(), set()

    async def ask(name: str, due: float, counts: bool):
        connection = idle.pop() if idle else None
        if connection is None or connection.transport.is_closing():
            _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        try:
            head = await connection.ask(f"GET /{name} HTTP/1.1\r\nhost: lab\r\n\r\n".encode())
        except (ConnectionError, asyncio.TimeoutError) as error:
            if counts:
                seen[name].statuses[type(error).__name__] += 1
            connection.transport.abort()
            return
        idle.append(connection)
        if not counts:
            return
        status = int(head.split(b" ", 2)[1])
        seen[name].statuses[status] += 1
        if status == 200:
            seen[name].times.append(time.perf_counter() - due)
        elif status == 503 and b"\r\nretry-after:" not in head.lower():
            seen[name].without_retry_after += 1

    begin = time.perf_counter()
    # The first one of each is due at another moment, so that they do not come in waves.
    following = {name: begin + number * 0.0007 for number, name in enumerate(rates)}
    while (now := time.perf_counter()) < begin + WARM_UP_SECONDS + seconds:
        for name, due in following.items():
            while due <= now:
                task = asyncio.ensure_future(ask(name, due, due >= begin + WARM_UP_SECONDS))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += 1 / rates[name]
            following[name] = due
        await asyncio.sleep(max(0.0, min(min(following.values()) - time.perf_counter(), 0.001)))
    await asyncio.gather(*tasks)
    return seen


def listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    return listener


def start(binary: Path, folder: Path, upstream: int, limit: str) -> tuple[subprocess.Popen, int]:
    (folder / "gateway.yaml").write_text(
        'listeners: { public: [{ address: "127.0.0.1:0" }], admin: { address: "127.0.0.1:0" } }\nthreads: 1\n'
    )
    routes = "".join(
        f'  - {{ name: {name}, match: {{ path: "/{name}" }}, upstream: up, priority: {name} }}\n' for name in SHARES
    )
    (folder / "routes.yaml").write_text(
        f'version: 1\nupstreams:\n  up: {{ discovery: {{ static: ["127.0.0.1:{upstream}"] }}, concurrency: {limit} }}\n'
        f"routes:\n{routes}"
    )
    log = (folder / "log").open("w")
    command = [binary, "run", "--config", folder / "gateway.yaml", "--routes", folder / "routes.yaml"]
    gateway = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 10
    while time.monotonic() < end and gateway.poll() is None:
        for line in (folder / "log").read_text().splitlines():
            said = json.loads(line) if line.startswith("{") else {}
            if said.get("event") == "listening" and said.get("listener") == "public":
                return gateway, int(said["address"].rpartition(":")[2])
        time.sleep(0.02)
    gateway.kill()
    sys.exit(f"the gateway does not start:\n{(folder / 'log').read_text()}")


def show(name: str, seen: dict[str, Seen]) -> None:
    for priority, it in seen.items():
        all_of_them = sum(it.statuses.values())
        other = {str(status): count for status, count in it.statuses.items() if status not in (200, 503)}
        print(
            f"| {name} | {priority} | {all_of_them} | {it.percentile(0.5):.1f} | {it.percentile(0.99):.1f} "
            f"| {it.shed / max(all_of_them, 1):.0%} | {other or ''} |",
            flush=True,
        )


def measure(binary: Path, upstream: int, limit: str, seconds: float) -> list[str]:
    """What is not as it should be."""
    offered = {name: 2 * SUSTAINED * share for name, share in SHARES.items()}
    alone = {"therapeutic": offered["therapeutic"]}
    with tempfile.TemporaryDirectory() as folder:
        gateway, port = start(binary, Path(folder), upstream, limit)
        try:
            unloaded = asyncio.run(load(port, alone, seconds))
            show(f"`{limit}`, alone", unloaded)
            loaded = asyncio.run(load(port, offered, seconds))
            show(f"`{limit}`, twice", loaded)
        finally:
            gateway.terminate()
            gateway.wait()
    first, then = unloaded["therapeutic"], loaded["therapeutic"]
    ratio = then.percentile(0.99) / first.percentile(0.99)
    print(f"\n`{limit}`: the 99th percentile of therapeutic requests is {ratio:.2f} times what it is alone\n", flush=True)
    wrong = []
    if not ratio <= 2:
        wrong.append(f"{limit}: {ratio:.2f} times")
    if then.shed:
        wrong.append(f"{limit}: {then.shed} therapeutic requests were shed")
    for name, it in loaded.items():
        if it.without_retry_after or set(it.statuses) - {200, 503}:
            wrong.append(f"{limit}: {name}: {it.statuses}, {it.without_retry_after} without Retry-After")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20, help="of each load, behind its first five")
    parser.add_argument("--binary", type=Path, default=Path("target/release/moongate"))
    parser.add_argument("--limits", nargs="*", default=[f"{{ max: {AT_ONCE} }}", "{ max: adaptive }"])
    help_of_spread = "0: all requests take the same, so that they end in step and begin in step, as at hardly any upstream"
    parser.add_argument("--spread", type=float, default=0.5, help=help_of_spread)
    options = parser.parse_args()
    listener = listening()
    server = multiprocessing.Process(target=serve, args=(listener, options.spread), daemon=True)
    server.start()
    print(f"An upstream of {AT_ONCE} at once, {SERVICE_SECONDS * 1000:.0f} ms each on average: {SUSTAINED:.0f} a second.\n")
    print("| `concurrency` | Priority | Requests | p50, ms | p99, ms | Shed | Other |\n| --- | --- | --- | --- | --- | --- | --- |")
    wrong = []
    for limit in options.limits:
        wrong += measure(options.binary, listener.getsockname()[1], limit, options.seconds)
    server.terminate()
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
