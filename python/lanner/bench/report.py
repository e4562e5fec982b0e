"""Tables of what was measured, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lanner.bench.contenders import OURS
from lanner.bench.results import Result, Run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PLAIN_WIDTH = 140
"""Columns where the output is no terminal and nothing would wrap it."""

N_REASONS = 12
"""Disturbed cases whose reasons are told below a table."""


def console(*, stderr: bool = False) -> Console:
    """Where tables go; as wide as they want where nobody looks at it as a terminal."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s ", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds / size < 1000 else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def rate(result: Result) -> str:
    """What a call does per second, in the unit of its limit."""
    if result.case["limit"] == "fma":
        return f"{result.case['n_flops'] / result.seconds() / 1e9:.1f} GFLOP/s"
    return f"{result.case['n_bytes'] / result.seconds() / 1e9:.1f} GB/s"


def missed(result: Result) -> list[str]:
    """Goals that were not reached: the peer or limit, what was reached and what was wanted."""
    texts = []
    for name, reached in result.reached.items():
        wanted = result.case["goals"][name]
        if reached < wanted:
            both = f"{reached:.0%} of {wanted:.0%}" if name == "limit" else f"{reached:.2f} of {wanted:g}"
            texts.append(f"{name} {both}")
    return texts


def facts(run: Run) -> list[str]:
    """The machine, the versions and the limits, a line each."""
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    threads = f"{run.n_threads} thread{'s' * (run.n_threads > 1)}"
    return [
        f"{run.machine}; {run.isa}; {threads}",
        versions,
        f"limits: {run.limits['read'] / 1e9:.1f} GB/s read, {run.limits['copy'] / 1e9:.1f} GB/s copied "
        f"(read + written), {run.limits['fma'] / 1e9:.1f} billion float32 multiply-adds "
        f"({2 * run.limits['fma'] / 1e9:.0f} GFLOP/s)",
    ]


def table(results: Iterable[Result], peers: Sequence[str]) -> Table:
    """A row per case, a section per operation."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    made.add_column("operation", no_wrap=True)
    for title in ("median", "rate", "of limit", *(f"vs {name}" for name in peers)):
        made.add_column(title, justify="right", no_wrap=True)
    made.add_column("goals")  # the one that may be broken into lines
    last = None
    for result in results:
        if last not in (None, result.case["op"]):
            made.add_section()
        last = result.case["op"]
        made.add_row(
            result.name,
            Text(
                duration(result.seconds()) + (" ~" if result.noise else "  "), "yellow" * bool(result.noise)
            ),
            rate(result),
            share(result),
            *(ratio(result, peer) for peer in peers),
            goal(result),
        )
    return made


def share(result: Result) -> Text:
    """Share of the limit; dim where the data fits a cache, for which memory is no limit."""
    from rich.text import Text

    in_cache = result.fits_cache and result.case["limit"] != "fma"
    return Text(f"{result.share:.0%}{'*' if in_cache else ' '}", style="dim" if in_cache else "")


def ratio(result: Result, peer: str) -> Text:
    """How many times faster than a peer, green or red; a dash where the peer has no such operation."""
    from rich.text import Text

    if peer not in result.samples:
        return Text("-", style="dim")
    value = result.ratio(peer)
    return Text(f"{value:.2f}x", style="green" if value >= 1 else "red")


def goal(result: Result) -> Text:
    """Whether the case reaches its goals; nothing where it has none."""
    from rich.text import Text

    if not result.reached:
        return Text()
    lacking = missed(result)
    return Text("; ".join(lacking), style="red") if lacking else Text("reached", style="green")


def show(run: Run, to: Console) -> None:
    """The whole of a run."""
    from rich.text import Text

    peers = list(dict.fromkeys(name for result in run.results for name in result.samples if name != OURS))
    for line in facts(run):
        to.print(Text(line), soft_wrap=True)
    to.print()
    to.print(table(run.results, peers))
    to.print(Text("* fits a cache, for which memory is no limit; ~ disturbed", "dim"), soft_wrap=True)
    warn(run, to)


def warn(run: Run, to: Console) -> None:
    """What disturbed a run, so that nobody can overlook it."""
    from rich.text import Text

    if not run.noise:
        return
    to.print(Text("NOISY MACHINE: these figures are not to be trusted", style="bold yellow"), soft_wrap=True)
    for line in run.noise:
        to.print(Text(f"  {line}", style="yellow"), soft_wrap=True)
    noisy = [result for result in run.results if result.noise]
    for result in noisy[:N_REASONS]:
        to.print(Text(f"  {result.name}: {'; '.join(result.noise)}", style="dim"), soft_wrap=True)
    if len(noisy) > N_REASONS:
        to.print(Text(f"  and {len(noisy) - N_REASONS} more, which --json names", style="dim"))
