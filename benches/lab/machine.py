"""The machine: processes we start and stop, their clocks, and what others do on it meanwhile."""

import contextlib
import os
import platform
import re
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
LOG_BYTES_MAX = 1 << 20


class Failure(Exception):
    """The run can't go on; the text says why."""


# ---- clocks ------------------------------------------------------------------------------------


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on: the name before it may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def family(root: int) -> list[int]:
    """A process and all its descendants: nginx works in a child."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children.setdefault(int(stat_fields(int(entry))[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(pids: list[int]) -> tuple[float, float]:
    """(user, system) time of these processes with all their threads, living and ended."""
    fields = [stat_fields(pid) for pid in pids]
    return sum(int(f[11]) for f in fields) / TICKS, sum(int(f[12]) for f in fields) / TICKS


def waiting_seconds(pids: list[int]) -> float:
    """How long the threads of these processes were ready to run while their core did other work."""
    waited = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                waited += int(path.read_text().split()[1])
    return waited / 1e9


def machine_seconds() -> tuple[float, float]:
    """(busy, stolen by the host) seconds of all cores since boot."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, stolen = map(int, fields)
    return (user + nice + system + irq + softirq) / TICKS, stolen / TICKS


def wait_for_quiet(patience: float, limit: float) -> None:
    """Waits, `patience` seconds at most, until others leave the machine alone for half a second."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = machine_seconds()[0]
        time.sleep(0.5)
        if (machine_seconds()[0] - before) / 0.5 <= limit:
            return


# ---- memory ------------------------------------------------------------------------------------


def forget_peaks(pids: list[int]) -> None:
    """Starts the peak of resident memory anew, so that a scenario does not show its predecessor's."""
    for pid in pids:
        with contextlib.suppress(PermissionError):  # then the peak is that of the whole life
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def own_memory_kib(pids: list[int]) -> float:
    """What these processes hold, a page that several of them share counted once (PSS). Without the right to
    look, resident memory: of a single process that is nearly the same."""
    return sum(memory_of(pid) for pid in pids)


def memory_of(pid: int) -> float:
    with contextlib.suppress(PermissionError):
        return field_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss")
    return field_kib(Path(f"/proc/{pid}/status"), "VmRSS")


def field_kib(path: Path, name: str) -> float:
    return float(re.search(rf"^{name}:\s+(\d+)", path.read_text(), re.MULTILINE)[1])


def peak_rss_mib(pids: list[int]) -> float:
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) for status in statuses) / 1024


# ---- processes ---------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Free loopback ports, all held at once while they are chosen, so that none comes twice."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for it in sockets:
            it.bind(("127.0.0.1", 0))
        return [it.getsockname()[1] for it in sockets]


class Server:
    """A process that we started on one core, or on a list of them, and stop by its own id."""

    def __init__(self, name: str, argv: list[str], core: int | str, env: dict[str, str], run: Path):
        self.name = name
        # Not beside the configuration: whoever watches that folder would be woken by every line.
        logs = run / "logs"
        logs.mkdir(exist_ok=True)
        self.log = logs / f"{name}.log"
        # Should we be killed outright, the kernel ends it for us (--pdeathsig); INT is the swift stop
        # of all of them, while TERM makes Pingora wait for minutes. Appending, so that the file can be
        # emptied between runs: an access log grows by megabytes a second.
        launch = ["setpriv", "--pdeathsig", "INT", "taskset", "-c", str(core)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                launch + argv,
                cwd=run,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop it in order
            )

    def pids(self) -> list[int]:
        return family(self.process.pid)

    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def trim_log(self) -> None:
        if self.log.stat().st_size > LOG_BYTES_MAX:
            os.truncate(self.log, 0)

    def stop(self) -> None:
        if not self.alive():
            return
        pids = self.pids()
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in pids[1:]:  # workers whose master did not take them along
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def raise_descriptors() -> int:
    """Lets us, and whom we start, open as many files as the system allows; gives how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def require(tools: dict[str, str]) -> None:
    """Fails with the package to install if one of these programs is missing."""
    missing = [f"{tool} (package {package})" for tool, package in tools.items() if not which(tool)]
    if missing:
        raise Failure("not installed: " + ", ".join(missing))


def which(tool: str) -> str | None:
    # /usr/sbin is not on everybody's path, and nginx and haproxy live there.
    places = os.environ.get("PATH", "").split(":") + ["/usr/sbin", "/sbin"]
    return next((f"{place}/{tool}" for place in places if os.access(f"{place}/{tool}", os.X_OK)), None)


def description() -> str:
    """The machine in one line, for the head of a report."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    name = cpu[1] if cpu else platform.machine()
    return f"{os.cpu_count()} × {name}, {memory:.0f} GiB, Linux {platform.release()}"
