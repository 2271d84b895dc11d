"""The tables: medians with their spread, and how each target stands to the two anchors."""

from dataclasses import dataclass
from statistics import median

from idle import Idle, Rest
from load import Load
from targets import Scenario, Target

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


def table(scenario: Scenario, runs: dict[str, list[Run]], targets: list[Target], limit: float) -> str:
    """A markdown table of one scenario; targets without a run are left out."""
    runs = {name: its for name, its in runs.items() if its}
    if not runs:
        return f"### {scenario.title}\n\nNothing was measured.\n"
    titles = {it.name: it.title for it in targets}
    cpu = {name: median(it.cpu_us for it in its) for name, its in runs.items()}
    anchors = [(f"÷ {titles[it]}", cpu[it]) for it in (scenario.bare, GATEWAY) if it in cpu]
    if scenario.special:
        anchors = [(f"÷ {titles[it]}", cpu[it]) for it in list(cpu)[:1]]
    # Where two binaries of Moongate are compared, each row of the one beside its twin of the other.
    twins = {it.before: it.name for it in targets if it.before and it.name in cpu}

    head = HEAD + [title for title, _ in anchors] + (["÷ before"] if twins else [])
    lines = [f"### {scenario.title}", "", row(head), rule(head)]
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
        cells += [f"{cpu[name] / anchor:.2f}" for _, anchor in anchors]
        if twins:
            cells.append(f"{cpu[name] / cpu[twins[name]]:.2f}" if name in twins else "")
        lines.append(row(cells))
    return "\n".join([*lines, "", conditions([it for its in runs.values() for it in its], limit), ""])


def idle_table(scenario: Idle, count: int, rests: dict[str, Rest], targets: list[Target]) -> str:
    """A markdown table of one kind of connection at rest."""
    titles = {it.name: it.title for it in targets}
    head = ["target", "KiB each", "MiB before", "MiB open", "MiB closed", "closed ÷ before"]
    if scenario.asked_meanwhile:
        head += [f"{name} µs, {when}" for when in ("alone", "among them") for name in ("p50", "p99")]
    lines = [f"### {count:,} {scenario.title}", "", row(head), rule(head)]
    for name, rest in rests.items():
        memory = [f"{it / 1024:.1f}" for it in (rest.before_kib, rest.open_kib, rest.closed_kib)]
        times = [f"{time:.0f}" for it in (rest.alone, rest.among) if it for time in (it.p50, it.p99)]
        lines.append(row([titles[name], f"{rest.each_kib:.1f}", *memory, f"{rest.left:.2f}", *times]))
    return "\n".join([*lines, ""])


def idle_summary(scenarios: list[Idle], found: dict[str, dict[str, Rest]], targets: list[Target]) -> str:
    """All kinds side by side."""
    head = ["target", *(it.short for it in scenarios)]
    lines = ["### Connections at rest: KiB each (memory after closing ÷ before)", "", row(head), rule(head)]
    for target in targets:
        rests = [found[it.name].get(target.name) for it in scenarios]
        if all(rests):
            lines.append(row([target.title, *(f"{it.each_kib:.1f} ({it.left:.2f})" for it in rests)]))
    return "\n".join([*lines, ""])


def rule(head: list[str]) -> str:
    return "|---" + "|---:" * (len(head) - 1) + "|"


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
