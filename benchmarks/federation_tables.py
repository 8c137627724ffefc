"""What the federation's benchmark found, and its tables."""

import statistics
from collections.abc import Container, Sequence
from dataclasses import dataclass

MEBIBYTE, GIBIBYTE = 2**20, 2**30
LEAST_RATIO = 0.70
LONGEST_EMPTY_ROUND_MS = 100.0
MOST_JUDGED_AGENTS = 8
"""The targets are for as many as share a machine with the server without crowding it."""


@dataclass(frozen=True)
class Transfer:
    """One cohort, one size; MiB/s are of the whole cohort, medians over the rounds.

    `bare` is raw bytes over asyncio; `stored` is the same to a server that hashes each chunk, writes all of
    them into one file and syncs it: the least that one can do who promises to keep them. `generated` is
    protobuf messages over grpc's synchronous server and stubs, None where it was not run.
    """

    agents: int
    kind: str
    mebibytes: int
    download: float
    bare_download: float
    generated_download: float | None
    upload: float
    bare_upload: float
    stored_upload: float
    generated_upload: float | None
    slowest_over_fastest: float
    memory_anonymous: int
    memory_total: int
    memory_allowed: int
    cpu_seconds_per_gibibyte: float


@dataclass(frozen=True)
class Rounds:
    """Whole rounds without training, told from outside: milliseconds from one's end to the next one's."""

    system: str
    agents: int
    payload_bytes: int
    """Of the model that each agent receives, and of the update that it sends."""
    median: float
    low: float
    high: float
    rounds: int
    memory_total: int
    cpu_milliseconds: float
    """Of the server, a round."""

    @property
    def mebibytes_per_second(self) -> float:
        """Both ways together, of the whole cohort."""
        return 2 * self.agents * self.payload_bytes / MEBIBYTE / (self.median / 1e3)

    @property
    def cpu_seconds_per_gibibyte(self) -> float:
        """Of the server, both ways together."""
        return self.cpu_milliseconds / 1e3 * GIBIBYTE / (2 * self.agents * self.payload_bytes)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower one, the median, the upper one; of one value it three times."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def verdict(good: bool) -> str:  # noqa: FBT001 - one argument
    return "pass" if good else "MISS"


def header(columns: Sequence[str], *, left: Container[str]) -> list[str]:
    """A table's first two lines; figures stand right."""
    rules = ("---" if column in left else "---:" for column in columns)
    return [f"| {' | '.join(columns)} |", f"| {' | '.join(rules)} |"]


def shown(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.0f}"


def transfer_table(found: Sequence[Transfer]) -> str:
    """Markdown: what moved, beside the yardstick, and what the server took for it."""
    columns = [
        "agents",
        "kind",
        "MiB",
        "down",
        "bare",
        "ratio",
        "stubs",
        "up",
        "bare",
        "ratio",
        "stored",
        "ratio",
        "stubs",
        "spread",
        "memory",
        "allowed",
        "CPU",
    ]
    lines = [
        "MiB/s; bare: raw bytes over asyncio, by which verdicts are given; stored: the same, hashed, written",
        "into one file and synced; stubs: protobuf messages over grpc's synchronous server and stubs;",
        "memory: the server's MiB over idle, anonymous and all; CPU: its seconds a GiB.",
        "",
        *header(columns, left={"kind"}),
    ]
    for each in found:
        down, up = each.download / each.bare_download, each.upload / each.bare_upload
        judged = each.agents <= MOST_JUDGED_AGENTS
        fits = verdict(each.memory_total <= each.memory_allowed)
        lines.append(
            f"| {each.agents} | {each.kind} | {each.mebibytes} "
            f"| {each.download:.0f} | {each.bare_download:.0f} "
            f"| {down:.2f} {verdict(down >= LEAST_RATIO) if judged else ''} "
            f"| {shown(each.generated_download)} "
            f"| {each.upload:.0f} | {each.bare_upload:.0f} "
            f"| {up:.2f} {verdict(up >= LEAST_RATIO) if judged else ''} "
            f"| {each.stored_upload:.0f} | {each.upload / each.stored_upload:.2f} "
            f"| {shown(each.generated_upload)} "
            f"| {each.slowest_over_fastest:.2f} "
            f"| {each.memory_anonymous / MEBIBYTE:.0f}, {each.memory_total / MEBIBYTE:.0f} "
            f"| {each.memory_allowed / MEBIBYTE:.0f} {fits} | {each.cpu_seconds_per_gibibyte:.2f} |"
        )
    return "\n".join([*lines, ""])


def empty_table(found: Sequence[Rounds]) -> str:
    """Markdown: how long a round takes in which nobody trains."""
    lines = [
        "| agents | empty round ms | middle half | rounds | server MiB over idle | server CPU ms a round |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in found:
        judged = (
            f" {verdict(each.median < LONGEST_EMPTY_ROUND_MS)}" if each.agents <= MOST_JUDGED_AGENTS else ""
        )
        lines.append(
            f"| {each.agents} | {each.median:.1f}{judged} | {each.low:.1f} to {each.high:.1f} "
            f"| {each.rounds} | {each.memory_total / MEBIBYTE:.0f} | {each.cpu_milliseconds:.0f} |"
        )
    return "\n".join([*lines, ""])


def rounds_table(found: Sequence[Rounds]) -> str:
    """Markdown: whole rounds of each system on the same job."""
    columns = ["system", "sites", "KiB each way", "round ms", "middle half", "rounds", "MiB/s", "memory"]
    lines = [
        "Whole rounds: model down, update up, average. MiB/s of all sites, both ways together; memory: the",
        "server's MiB over idle; CPU: its seconds a round, and a GiB moved.",
        "",
        *header([*columns, "CPU a round", "CPU a GiB"], left={"system"}),
    ]
    for each in found:
        large = each.payload_bytes >= MEBIBYTE
        lines.append(
            f"| {each.system} | {each.agents} | {each.payload_bytes / 1024:,.0f} | {each.median:,.0f} "
            f"| {each.low:,.0f} to {each.high:,.0f} | {each.rounds} "
            f"| {f'{each.mebibytes_per_second:.0f}' if large else ''} | {each.memory_total / MEBIBYTE:.0f} "
            f"| {each.cpu_milliseconds / 1e3:.2f} "
            f"| {f'{each.cpu_seconds_per_gibibyte:.2f}' if large else ''} |"
        )
    return "\n".join([*lines, ""])
