"""How the cost of a token grows, as a picture: against the context, and against the size of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from lanner._machine import cpu_name
from lanner.bench.growth import SHORTEST, Growth, Point, contexts
from lanner.bench.plot import FAINT, GRID, INK, fonts

COLOURS = ("#1f5fa8", "#c23b22", "#2e7d4f", "#b8860b", "#6a5acd", "#0f9fb8")
PROMPT_TOKENS = 512
"""Of the prompt whose cost is drawn against the size of the model."""

Cost = Callable[[Growth, Point], float]


def picture(curves: Sequence[Growth], path: str) -> None:
    """Draw prompt and decoding against context, and against model size where there are several, into a file.

    Raises:
        ImportError: matplotlib is missing (the extra `plot`).
        ValueError: `path` ends in nothing that matplotlib can write.
    """
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lanner"}):
        draw(curves).savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def draw(curves: Sequence[Growth]) -> Any:
    """The figure of `picture`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    n_rows = 2 if len(curves) > 1 else 1
    height = 1.5 + 3.05 * n_rows
    with mpl.rc_context({"font.family": fonts(), "font.size": 9.5, "text.color": INK}):
        figure = Figure(figsize=(9.6, height), dpi=110, facecolor="white")
        axes = figure.subplots(n_rows, 2, squeeze=False)
        figure.subplots_adjust(
            left=0.075, right=0.985, top=1 - 1.12 / height, bottom=0.86 / height, hspace=0.46, wspace=0.2
        )
        for axis, title, measured, expected in _by_context(axes[0]):
            _against_context(axis, title, curves, measured, expected)
        if n_rows > 1:
            _decode_against_size(axes[1][1], curves)
            _prefill_against_size(axes[1][0], curves)
        _words(figure, curves, height)
    return figure


def _by_context(axes: Sequence[Any]) -> list[tuple[Any, str, Cost, Callable[[Growth, int], float]]]:
    return [
        (
            axes[0],
            "Prompt, ms per token",
            lambda _, point: point.prefill_s_per_token,
            Growth.expected_prefill_s_per_token,
        ),
        (
            axes[1],
            "Decoding, ms per token",
            lambda _, point: point.decode_s_per_token,
            Growth.expected_decode_s_per_token,
        ),
    ]


def _against_context(
    axes: Any,
    title: str,
    curves: Sequence[Growth],
    measured: Cost,
    expected: Callable[[Growth, int], float],
) -> None:
    _style(axes, title, "tokens of context")
    for curve, colour in zip(curves, _colours(curves), strict=True):
        xs = [point.context for point in curve.points]
        axes.plot(xs, [1e3 * expected(curve, x) for x in xs], "--", color=colour, linewidth=1.1, alpha=0.75)
        ys = [1e3 * measured(curve, point) for point in curve.points]
        axes.plot(xs, ys, "o-", color=colour, linewidth=1.8, markersize=4.2, markeredgecolor="white",
                  markeredgewidth=0.6)  # fmt: skip
    ticks = contexts(max(point.context for curve in curves for point in curve.points) + SHORTEST)
    axes.set_xticks(ticks, [f"{x}" if x < 1024 else f"{x // 1024}k" for x in ticks])
    _y_ticks(axes)


def _decode_against_size(axes: Any, curves: Sequence[Growth]) -> None:
    sizes = [curve.costs.decode_bytes(SHORTEST) / 1e6 for curve in curves]
    times = [1e3 * curve.points[0].decode_s_per_token for curve in curves]
    read = max(curve.limits["read"] for curve in curves)
    _style(axes, f"Decoding behind {SHORTEST}, ms per token", "MB that a token reads")
    _against_size(axes, curves, sizes, times, 1e9 / read, f"{read / 1e9:.0f} GB/s")


def _prefill_against_size(axes: Any, curves: Sequence[Growth]) -> None:
    points = [min(curve.points, key=lambda p: abs(p.context - PROMPT_TOKENS)) for curve in curves]
    sizes = [c.costs.prefill_macs(p.context) / p.context / 1e6 for c, p in zip(curves, points, strict=True)]
    times = [1e3 * point.prefill_s_per_token for point in points]
    fma = max(curve.limits["fma"] for curve in curves)
    title = f"Prompt of {PROMPT_TOKENS}, ms per token"
    _style(axes, title, "million multiply-adds of a token")
    _against_size(axes, curves, sizes, times, 1e9 / fma, f"{fma / 1e9:.0f} GMAC/s")


def _against_size(
    axes: Any, curves: Sequence[Growth], sizes: list[float], times: list[float], slope: float, limit: str
) -> None:
    """Points of models, and the line ms = size * slope (of a size in millions) that the machine allows."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    low, high = min(sizes) / 1.5, max(sizes) * 1.5
    axes.plot([low, high], [low * slope, high * slope], "--", color=FAINT, linewidth=1.1)
    axes.annotate(
        limit, (high, high * slope), xytext=(-4, -30), textcoords="offset points", ha="right", va="top",
        fontsize=8.5, color=FAINT,
    )  # fmt: skip
    for size, time, colour in zip(sizes, times, _colours(curves), strict=True):
        axes.plot(size, time, "o", color=colour, markersize=6.5, markeredgecolor="white")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(_round_numbers(low, high)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    _y_ticks(axes)


def _style(axes: Any, title: str, below: str) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.set(xscale="log", yscale="log")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=8)
    axes.set_xlabel(below, color=FAINT, labelpad=4)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(length=0, labelcolor=INK, pad=5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _y_ticks(axes: Any) -> None:
    """1, 2, 5, 10, ... within the axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(FixedLocator(_round_numbers(low, high)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _round_numbers(low: float, high: float) -> list[float]:
    numbers = [digit * 10.0**power for power in range(-4, 7) for digit in (1, 2, 5)]
    return [number for number in numbers if low <= number <= high]


def _colours(curves: Sequence[Growth]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(curves))]


def _words(figure: Any, curves: Sequence[Growth], height: float) -> None:
    """Title, machine, legend."""
    from matplotlib.lines import Line2D

    threads = f"{curves[0].n_threads} thread{'s' * (curves[0].n_threads > 1)}"
    read = max(curve.limits["read"] for curve in curves) / 1e9
    fma = max(curve.limits["fma"] for curve in curves) / 1e9
    figure.text(0.012, 1 - 0.28 / height, "What a token costs", fontsize=14, fontweight="bold", va="center")
    about = (
        f"{cpu_name()}, {threads}: {read:.0f} GB/s of memory reads, {fma:.0f} billion float32 multiply-adds/s"
    )
    figure.text(0.012, 1 - 0.55 / height, about, fontsize=8.5, color=FAINT, va="center")
    if any(curve.noise for curve in curves):
        figure.text(
            0.985, 1 - 0.28 / height, "measured on a noisy machine", color="#b3261e", ha="right", va="center"
        )
    handles = [
        Line2D([], [], marker="o", color=colour, linewidth=1.8, markersize=4.2, label=_name(curve))
        for curve, colour in zip(curves, _colours(curves), strict=True)
    ]
    handles.append(Line2D([], [], linestyle="--", color=INK, linewidth=1.1, label="expected of the machine"))
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.12 / height), ncols=len(handles),
        frameon=False, fontsize=9, borderpad=0, borderaxespad=0, handlelength=2.2, columnspacing=1.8,
    )  # fmt: skip


def _name(curve: Growth) -> str:
    return PurePath(curve.model).name.removesuffix(".gguf")
