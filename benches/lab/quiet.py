#!/usr/bin/env python3
"""The upstream of connections at rest: event streams that say one thing and then nothing, WebSockets that
echo. It is cheap for each of ten thousand, since a proxy is measured and not this.

    quiet.py HOST:PORT
"""

import asyncio
import base64
import gc
import hashlib
import resource
import sys

HEAD_END = b"\r\n\r\n"
HEAD_MAX = 64 * 1024
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
EVENT = b"data: 1\n\n"
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(EVENT), EVENT)
)
ELSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nquiet\n"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Quiet(asyncio.Protocol):
    """One connection: requests without bodies, until one makes it a WebSocket."""

    __slots__ = ("transport", "data", "socket")

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.data = b""
        self.socket = False

    def data_received(self, data: bytes) -> None:
        self.data += data
        while not self.transport.is_closing() and (self.frame() if self.socket else self.request()):
            pass

    def request(self) -> bool:
        """Answers a request if a whole one is there."""
        head, end, rest = self.data.partition(HEAD_END)
        if not end:
            if len(head) > HEAD_MAX:
                self.transport.close()
            return False
        self.data = rest
        lines = head.split(b"\r\n")
        path = lines[0].split(b" ")[1]
        if key := field(lines, b"sec-websocket-key"):
            self.socket = True
            self.transport.write(upgrade(key))
        else:
            self.transport.write(STREAM if path.endswith(b"/events") else ELSE)
        return True

    def frame(self) -> bool:
        """Answers a frame if a whole one is there: short and masked, as our clients send them."""
        if len(self.data) < 6 or len(self.data) < 6 + (length := self.data[1] & 0x7F):
            return False
        if length > 125 or not self.data[1] & 0x80:
            self.transport.close()
            return False
        kind, mask = self.data[0] & 0x0F, self.data[2:6]
        payload = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.data[6 : 6 + length]))
        self.data = self.data[6 + length :]
        if kind != PONG:
            self.transport.write(bytes([0x80 | (PONG if kind == PING else kind), length]) + payload)
        if kind == CLOSE:
            self.transport.close()
        return True


def field(lines: list[bytes], name: bytes) -> bytes | None:
    for line in lines[1:]:
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip()
    return None


def upgrade(key: bytes) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key + GUID.encode()).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


async def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # nothing here goes in circles that matter, and a sweep over all would be a pause
    host, _, port = sys.argv[1].rpartition(":")
    server = await asyncio.get_running_loop().create_server(Quiet, host, int(port), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
