"""The table that a profile prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner.profile import threads

if TYPE_CHECKING:
    from lanner._doctor import Speed
    from lanner.profile import ProfileRow, ProfileSection

_HEAD = ("calls", "ms", "% time", "ms waiting", "MB", "GB/s", "% read", "GFLOP", "GFLOP/s", "% FMA")


def table(section: ProfileSection, speed: Speed) -> str:
    """A section: what it took, a line per row, and their sum."""
    wall = section.wall_s
    lines = [
        ("", *_HEAD),
        *((row.name, *_cells(row, wall, speed)) for row in section.rows),
        _sum(section, speed),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    steps = "1 step" if section.n_steps == 1 else f"{section.n_steps} steps"
    tokens = "1 token" if section.n_tokens == 1 else f"{section.n_tokens} tokens"
    read, computed = speed.read_bandwidth / 1e9, 2 * speed.fma / 1e9
    limits = f"{read:.1f} GB/s read, {computed:.1f} GFLOP/s of float32 multiply-adds"
    title = f"{section.name}: {steps}, {tokens}, {wall * 1e3:.1f} ms; {threads(speed)} reach {limits}"
    body = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    return "\n".join([title, *body])


def _cells(row: ProfileRow, wall: float, speed: Speed) -> tuple[str, ...]:
    waiting = f"{row.waiting_s * 1e3:.2f}" if row.op else ""
    return (
        f"{row.calls}" if row.op else "",
        *_times(row.time_s, wall),
        waiting,
        *_work(row, row.time_s, speed),
    )


def _sum(section: ProfileSection, speed: Speed) -> tuple[str, ...]:
    """All of it, work by the time that passed."""
    computing, waiting = section.wall_s - section.waiting_s, f"{section.waiting_s * 1e3:.2f}"
    work = _work(section, section.wall_s, speed)
    return ("all", "", *_times(computing, section.wall_s), waiting, *work)


def _times(seconds: float, wall: float) -> tuple[str, str]:
    return f"{seconds * 1e3:.2f}", f"{100 * seconds / wall:.1f}"


def _work(of: ProfileRow | ProfileSection, seconds: float, speed: Speed) -> tuple[str, ...]:
    """Bytes, FLOPs, and their shares of what the machine can do in that time."""
    cells: list[str] = []
    for amount, unit, limit in (
        (of.n_bytes, 1e6, speed.read_bandwidth),
        (of.n_flops, 1e9, 2 * speed.fma),
    ):
        if not amount or not seconds:
            cells += ["", "", ""]
            continue
        rate = amount / seconds
        cells += [
            f"{amount / unit:.{2 if unit == 1e9 else 1}f}",
            f"{rate / 1e9:.1f}",
            f"{100 * rate / limit:.0f}",
        ]
    return tuple(cells)
