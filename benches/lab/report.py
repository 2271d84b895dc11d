"""The tables: medians with their spread, and how each target stands to the two anchors."""

from dataclasses import dataclass
from statistics import median

from load import Load
from targets import Scenario

HEAD = ["target", "requests/s", "p50 µs", "p99 µs", "CPU µs/request", "of it user", "errors", "RSS MiB"]
GATEWAY = "haproxy-gateway"


@dataclass(frozen=True)
class Run:
    """One measured run of one target."""

    load: Load
    user_us: float  # CPU time in user mode for each request
    system_us: float
    rss_mib: float
    noise: float  # cores that others used meanwhile
    stolen: float  # cores that the host withheld
    waited: float  # part of the run that the target waited for its core, though ready

    @property
    def cpu_us(self) -> float:
        return self.user_us + self.system_us

    @property
    def disturbance(self) -> float:
        return self.noise + self.stolen

    def as_json(self) -> dict[str, float]:
        own = {name: value for name, value in vars(self).items() if name != "load"}
        return {**vars(self.load), "cpu_us": self.cpu_us, **own}


def spread(values: list[float], digits: int) -> str:
    low, middle, high = (f"{it:.{digits}f}" for it in (min(values), median(values), max(values)))
    return f"{middle} ({low}–{high})"


def table(scenario: Scenario, runs: dict[str, list[Run]], titles: dict[str, str], limit: float) -> str:
    """A markdown table of one scenario; targets without a run are left out."""
    runs = {name: its for name, its in runs.items() if its}
    if not runs:
        return f"### {scenario.title}\n\nNothing was measured.\n"
    cpu = {name: median(it.cpu_us for it in its) for name, its in runs.items()}
    anchors = [(f"÷ {titles[it]}", cpu[it]) for it in (scenario.bare, GATEWAY) if it in cpu]
    if scenario.name in ("routes", "cached"):
        anchors = [(f"÷ {titles[it]}", cpu[it]) for it in list(cpu)[:1]]

    head = HEAD + [title for title, _ in anchors]
    lines = [f"### {scenario.title}", "", row(head), "|---" + "|---:" * (len(head) - 1) + "|"]
    for name, its in runs.items():
        cells = [
            titles[name],
            spread([it.load.rate for it in its], 0),
            f"{median(it.load.p50 for it in its):.0f}",
            f"{median(it.load.p99 for it in its):.0f}",
            spread([it.cpu_us for it in its], 1),
            f"{median(it.user_us for it in its):.1f}",
            str(sum(it.load.errors for it in its)),
            f"{max(it.rss_mib for it in its):.0f}",
        ]
        lines.append(row(cells + [f"{cpu[name] / anchor:.2f}" for _, anchor in anchors]))
    return "\n".join([*lines, "", conditions([it for its in runs.values() for it in its], limit), ""])


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def conditions(runs: list[Run], limit: float) -> str:
    """How quiet the machine was: without it, nobody can tell how far to trust the table."""
    noise = [it.noise for it in runs]
    disturbed = sum(it.disturbance > limit for it in runs)
    return (
        f"Other work on the machine, in cores: median {median(noise):.2f}, worst {max(noise):.2f}; "
        f"withheld by the host: worst {max(it.stolen for it in runs):.2f}. "
        f"Targets waited for their core: median {100 * median(it.waited for it in runs):.0f} % of a run. "
        f"Disturbed runs (over {limit:.2f}): {disturbed} of {len(runs)}."
    )
