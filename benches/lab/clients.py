"""Ten thousand clients in one thread: each says its word, hears the answer, and then rests.

A client is a conversation: a generator that yields what it sends and is given what came. It returns its
last word, if it has one; then the connection stays open and silent until all are closed.
"""

import base64
import contextlib
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from load import Request, http1_head
from machine import Failure

Conversation = Generator[bytes, bytes, bytes | None]

# So many are on their way at once, so that what a proxy needs for busy ones is needed few times.
WINDOW = 64
# An address has some 28,000 ports to connect from, and those of closed connections rest for a minute.
CLIENTS_PER_ADDRESS = 4000
PATIENCE_SECONDS = 30
IP_BIND_ADDRESS_NO_PORT = 24  # Python 3.11 does not name it
HEAD_END = b"\r\n\r\n"


# ---- what they say -----------------------------------------------------------------------------


def request_once(host: str, request: Request, expected: bytes) -> Conversation:
    """One HTTP/1.1 request, whose answer has a length and this body."""
    data = yield http1_head(host, request)
    while len(data.partition(HEAD_END)[2]) < len(expected):
        data += yield b""
        refuse_others(data, b"HTTP/1.1 200")
    refuse_others(data, b"HTTP/1.1 200")
    if data.partition(HEAD_END)[2] != expected:
        raise Failure(f"wrong answer: {data[:300]!r}")


def event_stream(host: str, request: Request) -> Conversation:
    """An event stream that has given its first event."""
    data = yield http1_head(host, request)
    while b"data: 1\n\n" not in data:
        refuse_others(data, b"HTTP/1.1 200")
        data += yield b""
    if b"text/event-stream" not in data:
        raise Failure(f"no event stream: {data[:300]!r}")


def web_socket(host: str, request: Request) -> Conversation:
    """A WebSocket that has echoed a message."""
    said = b"lantern"
    data = yield http1_head(host, request)
    while HEAD_END not in data:
        data += yield b""
    refuse_others(data, b"HTTP/1.1 101")
    mask = b"\x37\xfa\x21\x3d"
    masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(said))
    data = data.partition(HEAD_END)[2] + (yield bytes([0x81, 0x80 | len(said)]) + mask + masked)
    while len(data) < 2 + len(said):
        data += yield b""
    if data != bytes([0x81, len(said)]) + said:
        raise Failure(f"instead of the echo: {data!r}")


def refuse_others(data: bytes, status: bytes) -> None:
    if not data.startswith(status[: len(data)]):
        raise Failure(f"instead of {status.decode()}: {data[:300]!r}")


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4
STATUS_200 = 0x88  # of HPACK's table


def request_once_h2(host: str, request: Request, expected: bytes) -> Conversation:
    """One HTTP/2 request without TLS, from a client that knows that it may."""
    pseudo = {":method": request.method, ":scheme": "http", ":authority": host, ":path": request.path}
    block = b"".join(plain_field(name.lower(), value) for name, value in {**pseudo, **request.headers}.items())
    to_send = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
    to_send += frame(HEADERS, END_HEADERS | END_STREAM, 1, block)
    data, body, ended = b"", b"", False
    while not ended:
        data += yield to_send
        to_send = b""
        while len(data) >= 9 and len(data) >= 9 + (length := int.from_bytes(data[:3])):
            kind, flags, payload = data[3], data[4], data[9 : 9 + length]
            data = data[9 + length :]
            ended |= kind in (DATA, HEADERS) and bool(flags & END_STREAM)
            if kind in (SETTINGS, PING) and not flags & ACK:
                to_send += frame(kind, ACK, 0, payload if kind == PING else b"")
            elif kind == DATA:
                body += payload
            elif kind == HEADERS and payload.lstrip(b"\x20\x3f")[:1] != bytes([STATUS_200]):
                raise Failure(f"not 200 over HTTP/2: {payload!r}")
            elif kind in (RST_STREAM, GOAWAY):
                raise Failure(f"refused over HTTP/2: frame {kind}, {payload!r}")
    if body != expected:
        raise Failure(f"wrong answer over HTTP/2: {body[:300]!r}")
    return to_send


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def plain_field(name: str, value: str) -> bytes:
    """A field of HPACK that enters no table and is not packed."""
    return b"\x00" + plain_text(name) + plain_text(value)


def plain_text(text: str) -> bytes:
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, head = len(data) - 127, b"\x7f"
    while rest >= 128:
        head += bytes([rest % 128 + 128])
        rest //= 128
    return head + bytes([rest]) + data


def upgrade_headers() -> dict[str, str]:
    key = base64.b64encode(bytes(range(16))).decode()
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }


# ---- the crowd ---------------------------------------------------------------------------------


@dataclass
class Client:
    """A connection under way."""

    socket: socket.socket
    conversation: Conversation
    deadline: float
    greeted: bool = False  # connected, by TLS too, and its first word is said


class Crowd:
    """Connections to one proxy, all held until they are closed together."""

    def __init__(self, address: str, converse: Callable[[], Conversation], tls: ssl.SSLContext | None = None):
        host, _, port = address.rpartition(":")
        self.address = host, int(port)
        self.converse = converse
        self.tls = tls
        self.resting: list[socket.socket] = []
        self.poll = selectors.DefaultSelector()

    def open(self, count: int) -> None:
        """Opens `count` more; returns when each has had its answer."""
        wanted = len(self.resting) + count
        number = len(self.resting)
        while len(self.resting) < wanted:
            while number < wanted and len(self.poll.get_map()) < WINDOW:
                self.begin(number)
                number += 1
            for key, _ in self.poll.select(1.0):
                self.go_on(key.data)
            self.check_patience()

    def begin(self, number: int) -> None:
        it = socket.socket()
        it.setblocking(False)
        it.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        it.bind((f"127.0.0.{2 + number // CLIENTS_PER_ADDRESS}", 0))
        with contextlib.suppress(BlockingIOError):
            it.connect(self.address)
        client = Client(it, self.converse(), time.monotonic() + PATIENCE_SECONDS)
        self.poll.register(it, selectors.EVENT_WRITE, client)

    def go_on(self, client: Client) -> None:
        try:
            self.step(client)
        except (BlockingIOError, ssl.SSLWantReadError):
            self.poll.modify(client.socket, selectors.EVENT_READ, client)
        except ssl.SSLWantWriteError:
            self.poll.modify(client.socket, selectors.EVENT_WRITE, client)
        except StopIteration as end:
            self.send(client, end.value or b"")
            self.poll.unregister(client.socket)
            self.resting.append(client.socket)
        except OSError as error:
            raise Failure(f"connection {len(self.resting) + 1} fails: {error}") from error

    def step(self, client: Client) -> None:
        if not client.greeted:
            self.greet(client)
        while True:
            data = client.socket.recv(65536)
            if not data:
                raise Failure(f"connection {len(self.resting) + 1} was closed before its answer")
            self.send(client, client.conversation.send(data))

    def greet(self, client: Client) -> None:
        if error := client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise Failure(f"connection {len(self.resting) + 1} is refused (errno {error})")
        if self.tls and not isinstance(client.socket, ssl.SSLSocket):
            self.poll.unregister(client.socket)
            client.socket = self.tls.wrap_socket(
                client.socket, server_hostname="localhost", do_handshake_on_connect=False
            )
            self.poll.register(client.socket, selectors.EVENT_READ, client)
        if self.tls:
            client.socket.do_handshake()
        client.greeted = True
        self.send(client, next(client.conversation))

    def send(self, client: Client, data: bytes) -> None:
        # A few hundred bytes into an empty buffer: the kernel takes them at once.
        if data and client.socket.send(data) != len(data):
            raise Failure("the kernel does not take a whole request")

    def check_patience(self) -> None:
        now = time.monotonic()
        if any(key.data.deadline < now for key in self.poll.get_map().values()):
            raise Failure(f"no answer within {PATIENCE_SECONDS} s, with {len(self.resting)} connections at rest")

    def lost(self) -> int:
        """How many of those at rest the other side has closed."""
        return sum(is_closed(it) for it in self.resting)

    def close(self) -> None:
        for key in list(self.poll.get_map().values()):
            self.poll.unregister(key.fileobj)
            key.data.socket.close()
        for it in self.resting:
            it.close()
        self.resting.clear()
        self.poll.close()


def is_closed(it: socket.socket) -> bool:
    """Reads what may have come besides, such as TLS tickets; none of it matters."""
    try:
        while it.recv(65536):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        pass
    return True
