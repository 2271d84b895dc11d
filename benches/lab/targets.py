"""The proxies under test and the scenarios: what is started how, and what is asked of it.

Everything that knows a proxy's configuration is here and in `conf/`. To follow a change of
Moongate's configuration, edit `conf/moongate-*.yaml`; to add a target, add it to `TARGETS`.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from load import Request
from machine import Failure, free_ports, which

CONF = Path(__file__).parent / "conf"
SECRET = "lantern-lantern-lantern-lantern-lantern"


def token() -> str:
    """A signed token that outlives every run. All targets get it, so all parse the same head."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    header = json.dumps({"alg": "HS256", "typ": "JWT"}, separators=(",", ":")).encode()
    claims = {
        "iss": "bench",
        "aud": "bench",
        "sub": "consumer-1",
        "tenant": "lab",
        "roles": ["player"],
        "jti": "bench-1",
        "iat": 1700000000,
        "exp": 4102444800,
    }
    signed = f"{part(header)}.{part(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{signed}.{part(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"


HEADERS = {"Authorization": f"Bearer {token()}", "User-Agent": "bench/1", "Accept": "application/json"}


# ---- scenarios ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    request: Request
    connections: int = 32
    streams: int = 0  # HTTP/2 streams a connection; 0 is HTTP/1.1
    quick: bool = False  # part of the quick look
    bare: str = "bare"  # the target that "÷ bare" divides by


def get(path: str, **headers: str) -> Request:
    return Request(path, headers={**HEADERS, **headers})


ITEM = get("/api/items/7")
# A KiB of JSON, braces and name included.
POST = Request(
    "/api/items",
    method="POST",
    headers={**HEADERS, "Content-Type": "application/json"},
    body=json.dumps({"data": "x" * (1024 - len('{"data": ""}'))}),
)

SCENARIOS = [
    Scenario("small", "GET, 130 bytes of JSON, 32 kept connections", ITEM, quick=True),
    # Stock Pingora keeps 128 idle upstream connections. With more in use it reconnects all the time,
    # so here the fair anchor is the one that an operator would have set.
    Scenario("many", "GET, 130 bytes of JSON, 256 kept connections", ITEM, 256, quick=True, bare="bare-pool"),
    Scenario("one", "GET, 130 bytes of JSON, 1 connection", ITEM, 1),
    Scenario("64k", "GET, 64 KiB, 32 connections", get("/api/files/64k"), quick=True),
    Scenario("1m", "GET, 1 MiB, 8 connections", get("/api/files/1m"), 8),
    Scenario("post", "POST of 1 KiB, 130 bytes of answer, 32 connections", POST, quick=True),
    Scenario("close", "A new connection for every request, 32 at a time", get(ITEM.path, Connection="close")),
    Scenario("h2c", "HTTP/2 without TLS, 8 connections of 8 streams", ITEM, 8, streams=8, quick=True),
    Scenario("cached", "GET of a cached response, 130 bytes of JSON, 32 connections", ITEM),
    Scenario("routes", "Moongate with 10 and with 10,000 routes, 32 connections", ITEM),
]


# ---- targets -----------------------------------------------------------------------------------


@dataclass
class Site:
    """What a target needs to know of this run in order to be configured."""

    run: Path
    upstream: str
    moongate: Path | None
    bare: Path | None = None


@dataclass
class Launch:
    """A configured target, ready to start."""

    address: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    h2_address: str | None = None


@dataclass(frozen=True)
class Target:
    name: str
    title: str
    launch: Callable[[Site], Launch] | None  # None: the upstream itself, no proxy between
    only: tuple[str, ...] = ()  # the scenarios it takes part in; empty: all that are not special
    skip: tuple[str, ...] = ()
    checks_token: bool = False  # must answer 401 without one, else it did not do the work it stands for

    def takes_part(self, scenario: Scenario) -> bool:
        if self.only:
            return scenario.name in self.only
        return scenario.name not in ("routes", "cached") and scenario.name not in self.skip


def write(site: Site, template: str, name: str, more: str = "", **values: str) -> str:
    """Fills `conf/template` into the run's folder as `name`, `more` appended; gives its path."""
    text = (CONF / template).read_text()
    for key, value in {"RUN": str(site.run), "UPSTREAM": site.upstream, "SECRET": SECRET, **values}.items():
        text = text.replace(f"@{key}@", value)
    if left := re.search(r"@[A-Z0-9_]+@", text):
        raise Failure(f"{template}: nothing to put for {left[0]}")
    path = site.run / name
    path.write_text(text + more)
    return str(path)


def addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


def upstream(site: Site) -> Launch:
    www = site.run / "www"
    www.mkdir()
    (www / "64k").write_bytes(bytes(range(256)) * 256)
    (www / "1m").write_bytes(bytes(range(256)) * 4096)
    conf = write(site, "upstream.conf", "upstream.conf", LISTEN=site.upstream)
    return Launch(site.upstream, [which("nginx"), "-e", "stderr", "-c", conf])


def nginx(site: Site) -> Launch:
    plain, h2c = addresses(2)
    conf = write(site, "nginx.conf", "nginx.conf", LISTEN=plain, LISTEN_H2C=h2c)
    return Launch(plain, [which("nginx"), "-e", "stderr", "-c", conf], h2_address=h2c)


def haproxy(conf: str) -> Callable[[Site], Launch]:
    def launch(site: Site) -> Launch:
        [address] = addresses(1)
        write(site, "haproxy-routes.map", "haproxy-routes.map")
        path = write(site, conf, conf, LISTEN=address)
        return Launch(address, [which("haproxy"), "-db", "-f", path], h2_address=address)

    return launch


def bare(**settings: str) -> Callable[[Site], Launch]:
    def launch(site: Site) -> Launch:
        [address] = addresses(1)
        env = {"LISTEN": address, "UPSTREAM": site.upstream, "STEAL": "false", "H2C": "true", **settings}
        return Launch(address, [str(site.bare)], env, h2_address=address)

    return launch


def moongate(name: str, routes: int = 1, table: str = "moongate-routes.yaml") -> Callable[[Site], Launch]:
    def launch(site: Site) -> Launch:
        plain, h2c, admin = addresses(3)
        config = write(
            site,
            "moongate-gateway.yaml",
            f"{name}-gateway.yaml",
            LISTEN=plain,
            LISTEN_H2C=h2c,
            LISTEN_ADMIN=admin,
        )
        written = write(site, table, f"{name}-routes.yaml", more_routes(routes - 1))
        argv = [str(site.moongate), "run", "--config", config, "--routes", written]
        return Launch(plain, argv, h2_address=h2c)

    return launch


def more_routes(count: int) -> str:
    """Routes beside the measured one: half under other paths, half below its own prefix, where they
    are nearer matches that the table has to rule out for every request."""
    shapes = ["/team-{team}/service-{n}/items/{{id}}", "/api/service-{n}/{{*rest}}"]
    routes = []
    for n in range(count):
        path = shapes[n % 2].format(team=n % 100, n=n)
        routes.append(f'  - name: other-{n}\n    match: {{ path: "{path}" }}\n    upstream: items\n')
    return "".join(routes)


TARGETS = [
    Target("direct", "no proxy (the load's ceiling)", None, skip=("h2c",)),
    Target("nginx", "nginx", nginx),
    Target("haproxy", "HAProxy, plain", haproxy("haproxy.cfg")),
    Target("haproxy-gateway", "HAProxy as API gateway", haproxy("haproxy-gateway.cfg"), checks_token=True),
    Target("bare", "bare Pingora", bare()),
    Target("bare-pool", "bare Pingora, pool of 4096", bare(POOL="4096"), only=("many",)),
    Target("moongate", "Moongate", moongate("moongate")),
    Target(
        "moongate-api",
        "Moongate as API gateway",
        moongate("moongate-api", table="moongate-api-routes.yaml"),
        checks_token=True,
    ),
    Target("moongate-proxied", "Moongate, asking the upstream", moongate("moongate-proxied"), only=("cached",)),
    Target(
        "moongate-cached",
        "Moongate, from its memory",
        moongate("moongate-cached", table="moongate-cached-routes.yaml"),
        only=("cached",),
    ),
    Target("moongate-10", "Moongate, 10 routes", moongate("moongate-10", 10), only=("routes",)),
    Target("moongate-10k", "Moongate, 10,000 routes", moongate("moongate-10k", 10_000), only=("routes",)),
]
