"""The requests: single ones that check an answer, and the load of `wrk`, `h2load` and `pace.py`."""

import http.client
import json
import re
import secrets
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}


@dataclass(frozen=True)
class Request:
    """What every target is asked, alike to the byte."""

    path: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    unique: str | None = None  # a header that gets another value with every request


@dataclass(frozen=True)
class Load:
    """What a load generator saw, its own CPU time apart. Latencies in µs."""

    requests: int
    rate: float
    p50: float
    p99: float
    errors: int


def trusting(run: Path) -> ssl.SSLContext:
    """TLS with the certificate of this run, and no other."""
    return ssl.create_default_context(cafile=str(run / "tls.pem"))


def fetch(
    address: str, request: Request, without: str | None = None, tls: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    """Status and body of one request; status 0 if nobody answered. `without` leaves a header out."""
    if tls:
        connection = http.client.HTTPSConnection(address, timeout=10, context=tls)
    else:
        connection = http.client.HTTPConnection(address, timeout=10)
    headers = {name: value for name, value in request.headers.items() if name != without}
    if request.unique:
        headers[request.unique] = secrets.token_hex(8)
    try:
        connection.request(request.method, request.path, request.body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error).encode()
    finally:
        connection.close()


def fetch_h2(address: str, request: Request) -> bytes:
    """The body of one GET over HTTP/2 without TLS, which Python's library does not speak."""
    argv = ["nghttp", "--timeout=10", *header_options(request), f"http://{address}{request.path}"]
    return subprocess.run(argv, capture_output=True, timeout=20, check=False).stdout


def header_options(request: Request) -> list[str]:
    return [word for name, value in request.headers.items() for word in ("-H", f"{name}: {value}")]


def wrk_command(
    address: str, request: Request, connections: int, seconds: int, run: Path, scheme: str = "http"
) -> list[str]:
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "20s"]
    if request.body is not None:
        script = run / "logs" / "wrk.lua"  # not beside the configuration, see `Server`
        script.write_text(wrk_script(request))
        argv += ["-s", str(script)]
    return [*argv, *header_options(request), f"{scheme}://{address}{request.path}"]


def wrk_script(request: Request) -> str:
    script = f"wrk.method = '{request.method}'\nwrk.body = [==[{request.body}]==]\n"
    if not request.unique:
        return script
    # The first part keeps this run apart from every other, the number each of its requests.
    return script + f"""
local number = 0
function request()
  number = number + 1
  wrk.headers['{request.unique}'] = '{secrets.token_hex(8)}-' .. number
  return wrk.format()
end
"""


def wrk_result(out: str) -> Load:
    errors = [int(it) for it in re.findall(r"Non-2xx or 3xx responses: (\d+)", out)]
    for counts in re.findall(r"Socket errors: (.*)", out):
        errors += [int(it) for it in re.findall(r"\d+", counts)]

    def found(pattern: str) -> str:
        return re.search(pattern, out)[1]

    return Load(
        requests=int(found(r"(\d+) requests in")),
        rate=float(found(r"Requests/sec:\s+([\d.]+)")),
        p50=microseconds(found(r"\n +50% +(\S+)")),
        p99=microseconds(found(r"\n +99% +(\S+)")),
        errors=sum(errors),
    )


def microseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()
    return float(number) * UNITS_US[unit]


def h2load_command(
    address: str, request: Request, connections: int, streams: int, seconds: int, run: Path
) -> list[str]:
    log = run / "logs" / "h2load.log"  # not beside the configuration, see `Server`
    log.unlink(missing_ok=True)  # h2load appends
    argv = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"--log-file={log}"]
    return [*argv, *header_options(request), f"http://{address}{request.path}"]


def h2load_result(out: str, run: Path) -> Load:
    # "failed" holds every other kind; its own summary has no percentiles, so they come from the log.
    done, failed = re.search(r"(\d+) done, \d+ succeeded, (\d+) failed", out).groups()
    with (run / "logs" / "h2load.log").open() as log:
        times = sorted(int(line.split("\t")[2]) for line in log)
    return Load(
        requests=int(done),
        rate=float(re.search(r"finished in \S+, ([\d.]+) req/s", out)[1]),
        p50=times[len(times) // 2],
        p99=times[len(times) * 99 // 100],
        errors=int(failed),
    )


def paced_command(address: str, request: Request, connections: int, seconds: int, **mode: int | str) -> list[str]:
    """Our own load: `segments=N` for heads in pieces, `rate=N` for so many requests a second,
    `trusted=FILE` for a whole TLS handshake each."""
    order = {
        "address": address,
        "head": http1_head(address, request).decode(),
        "connections": connections,
        "seconds": seconds,
        **mode,
    }
    return [sys.executable, str(Path(__file__).parent / "pace.py"), json.dumps(order)]


def paced_result(out: str) -> Load:
    return Load(**json.loads(out))


def http1_head(host: str, request: Request) -> bytes:
    """The request as it goes over the wire, for clients of our own. It has no body."""
    fields = {"Host": host, **request.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{request.method} {request.path} HTTP/1.1\r\n{lines}\r\n".encode()
