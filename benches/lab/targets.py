"""The proxies under test and the scenarios: what is started how, and what is asked of it.

Everything that knows a proxy's configuration is here and in `conf/`. To follow a change of
Moongate's configuration, edit `conf/moongate-*.yaml`; to add a target, add it to `TARGETS`.
"""

import base64
import hashlib
import hmac
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from load import Request
from machine import Failure, free_ports, which

CONF = Path(__file__).parent / "conf"
# The peers that no Debian package brings; scripts/setup.sh puts them where `Site.peers` is.
PEERS = ("envoy", "traefik", "caddy")
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
    tls: bool = False
    fresh: bool = False  # each request after a whole TLS handshake, from a load of our own
    segments: int = 0  # a head comes in so many TCP segments, from a load of our own; 0 is wrk
    special: bool = False  # only for the targets that name it; the first of them is what others are held against


def get(path: str, **headers: str) -> Request:
    return Request(path, headers={**HEADERS, **headers})


ITEM = get("/api/items/7")
CLOSING = get(ITEM.path, Connection="close")
# A KiB of JSON, braces and name included.
POST = Request(
    "/api/items",
    method="POST",
    headers={**HEADERS, "Content-Type": "application/json"},
    body=json.dumps({"data": "x" * (1024 - len('{"data": ""}'))}),
)

# A head of 8 KiB: no line is longer than what nginx takes by default.
LONG = get(ITEM.path, **{f"X-Field-{number:02}": "x" * 498 for number in range(15)})

SCENARIOS = [
    Scenario("small", "GET, 130 bytes of JSON, 32 kept connections", ITEM, quick=True),
    # Stock Pingora keeps 128 idle upstream connections. With more in use it reconnects all the time,
    # so here the fair anchor is the one that an operator would have set.
    Scenario("many", "GET, 130 bytes of JSON, 256 kept connections", ITEM, 256, quick=True, bare="bare-pool"),
    Scenario("one", "GET, 130 bytes of JSON, 1 connection", ITEM, 1),
    Scenario("64k", "GET, 64 KiB, 32 connections", get("/api/files/64k"), quick=True),
    Scenario("1m", "GET, 1 MiB, 8 connections", get("/api/files/1m"), 8),
    Scenario("post", "POST of 1 KiB, 130 bytes of answer, 32 connections", POST, quick=True),
    Scenario("close", "A new connection for every request, 32 at a time", CLOSING),
    Scenario("h2c", "HTTP/2 without TLS, 8 connections of 8 streams", ITEM, 8, streams=8, quick=True),
    Scenario("tls", "GET over TLS, 130 bytes of JSON, 32 kept connections", ITEM, tls=True),
    Scenario("tls-new", "A whole TLS handshake for every request, 8 at a time", CLOSING, 8, tls=True, fresh=True),
    # wrk brings the ticket of the connection before.
    Scenario("tls-resumed", "A resumed TLS connection for every request, 32 at a time", CLOSING, tls=True),
    Scenario("chunked-64k", "GET, 64 KiB in chunks, 32 connections", get("/api/chunked/64k")),
    Scenario("chunked-1m", "GET, 1 MiB in chunks, 8 connections", get("/api/chunked/1m"), 8),
    Scenario("streamed-64k", "GET, 64 KiB as it comes, 1 KiB at a time, 32 connections", get("/api/streamed/64k")),
    Scenario("streamed-1m", "GET, 1 MiB as it comes, 1 KiB at a time, 8 connections", get("/api/streamed/1m"), 8),
    Scenario("head-1", "GET with a head of 8 KiB in one segment, 32 connections in step", LONG, segments=1),
    Scenario("head-64", "GET with a head of 8 KiB in 64 segments, 32 connections in step", LONG, segments=64),
    Scenario("cached", "GET of a cached response, 130 bytes of JSON, 32 connections", ITEM, special=True),
    Scenario(
        "first-post",
        "POST of 1 KiB with a key that is new, 130 bytes of answer, 32 connections",
        replace(POST, unique="Idempotency-Key"),
        special=True,
    ),
    # The session goes with all of them, and means something to some.
    Scenario(
        "resilient",
        "GET, 130 bytes of JSON, 32 connections, with breaker, outlier detection, retry budget and sticky session",
        get(ITEM.path, **{"X-Session-Id": "lantern-7"}),
        special=True,
    ),
    Scenario("routes", "Moongate with 10 and with 10,000 routes, 32 connections", ITEM, special=True),
]

OVER_TLS = tuple(it.name for it in SCENARIOS if it.tls)


# ---- targets -----------------------------------------------------------------------------------


@dataclass
class Site:
    """What a target needs to know of this run in order to be configured."""

    run: Path
    upstream: str
    moongate: Path | None
    bare: Path | None = None
    baseline: Path | None = None  # another Moongate, to be compared with
    peers: Path | None = None  # the folder of Envoy, Traefik and Caddy
    prefix: str = ""  # of the names of files, for targets that differ in nothing else
    clients_max: int = 8192
    quiet: str | None = None  # the upstream of streams and sockets at rest, where there is one

    def has(self, target: "Target") -> bool:
        if target.name.startswith("moongate"):
            return bool(self.baseline if target.before else self.moongate)
        return target.peer is None or bool(self.peers and (self.peers / target.peer).exists())


@dataclass
class Launch:
    """A configured target, ready to start."""

    address: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    h2_address: str | None = None
    tls_address: str | None = None


@dataclass(frozen=True)
class Target:
    name: str
    title: str
    launch: Callable[[Site], Launch] | None  # None: the upstream itself, no proxy between
    only: tuple[str, ...] = ()  # the scenarios it takes part in; empty: all that are not special
    skip: tuple[str, ...] = ()
    checks_token: bool = False  # must answer 401 without one, else it did not do the work it stands for
    peer: str | None = None  # the program of `PEERS` that it needs
    rests: bool = False  # takes part in the measurements of connections at rest
    before: str | None = None  # the target that this one is the same as, with the binary of --baseline

    def takes_part(self, scenario: Scenario) -> bool:
        if self.only:
            return scenario.name in self.only
        return not scenario.special and scenario.name not in self.skip


def write(site: Site, template: str, name: str, more: str = "", **values: str) -> str:
    """Fills `conf/template` into the run's folder as `name`, `more` appended; gives its path. Lines
    behind `#quiet` count only where there is a quiet upstream: other runs shall not carry its routes."""
    text = (CONF / template).read_text()
    if site.quiet:
        text = re.sub(r"^( *|\t*)#quiet ", r"\1", text, flags=re.MULTILINE)
    else:
        text = re.sub(r"^[ \t]*#quiet .*\n", "", text, flags=re.MULTILINE)
    known = {
        "RUN": str(site.run),
        "SECRET": SECRET,
        "CLIENTS_MAX": str(site.clients_max),
        "UPSTREAM": site.upstream,
        "PORT_UPSTREAM": port(site.upstream),
        "QUIET": site.quiet or "",
        "PORT_QUIET": port(site.quiet or ""),
    }
    for key, value in {**known, **values}.items():
        text = text.replace(f"@{key}@", value)
    if left := re.search(r"@[A-Z0-9_]+@", text):
        raise Failure(f"{template}: nothing to put for {left[0]}")
    path = site.run / f"{site.prefix}{name}"
    path.write_text(text + more)
    return str(path)


def addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{it}" for it in free_ports(count)]


def port(address: str) -> str:
    return address.rpartition(":")[2]


def certify(run: Path) -> None:
    """A certificate for all that speak TLS here: P-256, as most of the web has."""
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    cert, key = run / "tls.pem", run / "tls.key"
    argv = ["openssl", "req", "-x509", *kind, *subject, "-out", str(cert), "-keyout", str(key)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"no certificate: {done.stderr}")
    (run / "tls-both.pem").write_text(cert.read_text() + key.read_text())


def upstream(site: Site) -> Launch:
    www = site.run / "www"
    www.mkdir(exist_ok=True)
    (www / "64k").write_bytes(bytes(range(256)) * 256)
    (www / "1m").write_bytes(bytes(range(256)) * 4096)
    (www / "nothing").write_bytes(b"")
    conf = write(site, "upstream.conf", "upstream.conf", LISTEN=site.upstream)
    return Launch(site.upstream, [which("nginx"), "-e", "stderr", "-c", conf])


def quiet(address: str) -> Launch:
    """The upstream whose streams and sockets rest."""
    return Launch(address, [sys.executable, str(Path(__file__).parent / "quiet.py"), address])


def nginx(site: Site) -> Launch:
    plain, h2c, tls = addresses(3)
    # Its connections are those of both sides, and it drops waiting ones when all but a sixteenth are in use.
    slots = 5 * site.clients_max // 2 if site.quiet else site.clients_max
    values = {"LISTEN": plain, "LISTEN_H2C": h2c, "LISTEN_TLS": tls, "SLOTS": str(slots)}
    conf = write(site, "nginx.conf", "nginx.conf", **values)
    return Launch(plain, [which("nginx"), "-e", "stderr", "-c", conf], h2_address=h2c, tls_address=tls)


def haproxy(conf: str) -> Callable[[Site], Launch]:
    def launch(site: Site) -> Launch:
        address, tls = addresses(2)
        if "gateway" in conf:
            write(site, "haproxy-routes.map", "haproxy-routes.map")
        path = write(site, conf, conf, LISTEN=address, LISTEN_TLS=tls)
        argv = [which("haproxy"), "-db", "-f", path]
        return Launch(address, argv, h2_address=address, tls_address=tls)

    return launch


def envoy(conf: str, name: str = "") -> Callable[[Site], Launch]:
    def launch(site: Site) -> Launch:
        address, tls = addresses(2)
        secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
        values = {"PORT": port(address), "PORT_TLS": port(tls), "SECRET_BASE64": secret}
        path = write(site, conf, f"{name}{conf}", **values)
        argv = [str(site.peers / "envoy"), "-c", path, "--concurrency", "1"]
        argv += ["--disable-hot-restart", "--log-level", "error"]
        return Launch(address, argv, h2_address=address, tls_address=tls)

    return launch


def traefik(site: Site) -> Launch:
    address, tls = addresses(2)
    routes = write(site, "traefik-routes.yaml", "traefik-routes.yaml")
    conf = write(site, "traefik.yaml", "traefik.yaml", LISTEN=address, LISTEN_TLS=tls, ROUTES=routes)
    argv = [str(site.peers / "traefik"), f"--configFile={conf}"]
    return Launch(address, argv, {"GOMAXPROCS": "1"}, h2_address=address, tls_address=tls)


def caddy(site: Site) -> Launch:
    address, tls = addresses(2)
    conf = write(site, "Caddyfile", "Caddyfile", PORT=port(address), PORT_TLS=port(tls))
    argv = [str(site.peers / "caddy"), "run", "--config", conf, "--adapter", "caddyfile"]
    # It keeps state in its user's home.
    env = {"GOMAXPROCS": "1", "HOME": str(site.run), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}
    return Launch(address, argv, env, h2_address=address, tls_address=tls)


def bare(**settings: str) -> Callable[[Site], Launch]:
    def launch(site: Site) -> Launch:
        [address] = addresses(1)
        env = {"LISTEN": address, "UPSTREAM": site.upstream, "STEAL": "false", "H2C": "true", **settings}
        return Launch(address, [str(site.bare)], env, h2_address=address)

    return launch


def moongate(name: str, routes: int = 1, table: str = "moongate-routes.yaml") -> Callable[[Site], Launch]:
    def launch(site: Site) -> Launch:
        plain, h2c, tls, admin = addresses(4)
        config = write(
            site,
            "moongate-gateway.yaml",
            f"{name}-gateway.yaml",
            LISTEN=plain,
            LISTEN_H2C=h2c,
            LISTEN_TLS=tls,
            LISTEN_ADMIN=admin,
        )
        written = write(site, table, f"{name}-routes.yaml", more_routes(routes - 1))
        argv = [str(site.moongate), "run", "--config", config, "--routes", written]
        return Launch(plain, argv, h2_address=h2c, tls_address=tls)

    return launch


def before(target: Target) -> Target:
    """The same target with the binary of --baseline."""

    def launch(site: Site) -> Launch:
        return target.launch(replace(site, moongate=site.baseline, prefix=f"{site.prefix}before-"))

    name = target.name.replace("moongate", "moongate-before", 1)
    title = target.title.replace("Moongate", "Moongate before", 1)
    return replace(target, name=name, title=title, launch=launch, before=target.name)


def more_routes(count: int) -> str:
    """Routes beside the measured one: half under other paths, half below its own prefix, where they
    are nearer matches that the table has to rule out for every request."""
    shapes = ["/team-{team}/service-{n}/items/{{id}}", "/api/service-{n}/{{*rest}}"]
    routes = []
    for n in range(count):
        path = shapes[n % 2].format(team=n % 100, n=n)
        routes.append(f'  - name: other-{n}\n    match: {{ path: "{path}" }}\n    upstream: items\n')
    return "".join(routes)


MOONGATES = [
    Target("moongate", "Moongate", moongate("moongate"), rests=True),
    Target(
        "moongate-api",
        "Moongate as API gateway",
        moongate("moongate-api", table="moongate-api-routes.yaml"),
        checks_token=True,
    ),
    Target(
        "moongate-proxied",
        "Moongate, asking the upstream",
        moongate("moongate-proxied"),
        only=("cached", "first-post", "resilient"),
    ),
    Target(
        "moongate-cached",
        "Moongate, from its memory",
        moongate("moongate-cached", table="moongate-cached-routes.yaml"),
        only=("cached",),
    ),
    Target(
        "moongate-idempotent",
        "Moongate, keeping the answer",
        moongate("moongate-idempotent", table="moongate-idempotent-routes.yaml"),
        only=("first-post",),
    ),
    Target(
        "moongate-resilient",
        "Moongate, all of it switched on",
        moongate("moongate-resilient", table="moongate-resilient-routes.yaml"),
        only=("resilient",),
    ),
    Target("moongate-10", "Moongate, 10 routes", moongate("moongate-10", 10), only=("routes",)),
    Target("moongate-10k", "Moongate, 10,000 routes", moongate("moongate-10k", 10_000), only=("routes",)),
]

TARGETS = [
    Target("direct", "no proxy (the load's ceiling)", None, skip=("h2c", *OVER_TLS)),
    Target("nginx", "nginx", nginx, rests=True),
    Target("haproxy", "HAProxy, plain", haproxy("haproxy.cfg"), rests=True),
    Target("haproxy-gateway", "HAProxy as API gateway", haproxy("haproxy-gateway.cfg"), checks_token=True),
    Target("envoy", "Envoy, plain", envoy("envoy.yaml"), peer="envoy", rests=True),
    Target("envoy-gateway", "Envoy as API gateway", envoy("envoy-gateway.yaml"), checks_token=True, peer="envoy"),
    Target("envoy-bare", "Envoy, without", envoy("envoy.yaml", "bare-"), peer="envoy", only=("resilient",)),
    Target(
        "envoy-resilient", "Envoy, all of it switched on", envoy("envoy-resilient.yaml"), peer="envoy", only=("resilient",)
    ),
    Target("traefik", "Traefik", traefik, peer="traefik", rests=True),
    Target("caddy", "Caddy", caddy, peer="caddy", rests=True),
    Target("bare", "bare Pingora", bare(), skip=OVER_TLS),
    Target("bare-pool", "bare Pingora, pool of 4096", bare(POOL="4096"), only=("many",)),
    *(twin for it in MOONGATES for twin in (it, before(it))),
]
