#!/usr/bin/env python3
"""A load that `wrk` can't make: heads in pieces, so many requests a second and no more, or whole TLS
handshakes (`wrk` brings the last connection's ticket).

Run by bench.py with an order in JSON; gives a `load.Load` in JSON. It is slower than every proxy that it
asks: what it measures is what a request costs there, or how long one takes while there is little to do.
"""

import json
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

HEAD_END = b"\r\n\r\n"
PATIENCE_SECONDS = 20


class Connection:
    """A connection that asks once, or the same again and again."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None):
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a piece is a segment
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def send(self, piece: bytes) -> None:
        self.socket.sendall(piece)

    def answered_well(self) -> bool:
        """Reads one whole answer, which must have a length."""
        data = b""
        while HEAD_END not in data:
            data += self.more()
        head, _, body = data.partition(HEAD_END)
        missing = length(head) - len(body)
        while missing > 0:
            missing -= len(self.more())
        return head.startswith(b"HTTP/1.1 200") and missing == 0

    def more(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed before the end of an answer")
        return data


def length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise ConnectionError(f"an answer without a length: {head[:200]!r}")


def pieces(head: bytes, count: int) -> list[bytes]:
    """`count` pieces, as even as it goes."""
    ends = [len(head) * number // count for number in range(count + 1)]
    return [head[start:end] for start, end in zip(ends, ends[1:])]


def in_step(connections: list[Connection], head: bytes, segments: int, end: float) -> Iterator[tuple[float, bool]]:
    """All connections send their first piece, then all their second, and so on: by the time that a
    connection's next piece comes, the one before has been read."""
    parts = pieces(head, segments)
    while time.monotonic() < end:
        began = time.monotonic()
        for part in parts:
            for connection in connections:
                connection.send(part)
        for connection in connections:
            well = connection.answered_well()
            yield time.monotonic() - began, well


def at_rate(connections: list[Connection], head: bytes, rate: int, end: float) -> Iterator[tuple[float, bool]]:
    """One request at a time, at fixed moments. A late one counts from when it should have begun."""
    due = time.monotonic()
    number = 0
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        connection = connections[number % len(connections)]
        connection.send(head)
        well = connection.answered_well()
        yield time.monotonic() - due, well
        number += 1
        due += 1 / rate


def shaken_anew(address: str, head: bytes, tls: ssl.SSLContext, end: float) -> list[tuple[float, bool]]:
    """A connection for each request, of which the other side remembers nothing."""
    answers = []
    while (began := time.monotonic()) < end:
        connection = Connection(address, tls)
        connection.send(head)
        well = connection.answered_well()
        connection.socket.close()
        answers.append((time.monotonic() - began, well))
    return answers


def run(order: dict, end: float) -> list[tuple[float, bool]]:
    """Time and goodness of each answer."""
    address, head, count = order["address"], order["head"].encode(), order["connections"]
    if "trusted" in order:
        tls = ssl.create_default_context(cafile=order["trusted"])
        with ThreadPoolExecutor(count) as pool:
            threads = [pool.submit(shaken_anew, address, head, tls, end) for _ in range(count)]
        return [answer for thread in threads for answer in thread.result()]
    connections = [Connection(address) for _ in range(count)]
    if "segments" in order:
        return list(in_step(connections, head, order["segments"], end))
    return list(at_rate(connections, head, order["rate"], end))


def main() -> None:
    order = json.loads(sys.argv[1])
    began = time.monotonic()
    answers = run(order, began + order["seconds"])
    took = time.monotonic() - began
    times = sorted(it for it, _ in answers)
    result = {
        "requests": len(answers),
        "rate": len(answers) / took,
        "p50": times[len(times) // 2] * 1e6,
        "p99": times[len(times) * 99 // 100] * 1e6,
        "errors": sum(not well for _, well in answers),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
