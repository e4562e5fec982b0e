"""A roofline: what the operations reach beside what the machine can do (Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lanner.bench.contenders import OURS
from lanner.bench.labels import Box, Label, place
from lanner.bench.results import Result, Run

COLOURS = {
    "matmul, float": "#1f5fa8",
    "matmul, quantized": "#0f9fb8",
    "matmul, one row": "#6a5acd",
    "attention, prompt": "#c23b22",
    "attention, one query": "#e07b39",
    "softmax": "#2e7d4f",
    "norms": "#7a9a01",
    "activations": "#b8860b",
    "rope": "#a0522d",
    "top-k": "#8e4585",
    "quantization": "#5b6770",
}
"""By family: products blue, attention red, rows green, elements ochre."""

INK, FAINT, GRID = "#22262a", "#8b939a", "#e9ecee"
FONTS = ("Inter", "Source Sans 3", "Helvetica Neue", "Helvetica", "Arial", "DejaVu Sans")
PEER_MARKS = {"numpy": ("s", "NumPy"), "torch": ("o", "PyTorch")}


def roofline(runs: Sequence[Run], path: str) -> None:
    """Draw the run with most threads, its points and roof, and the roof of one thread, into a file.

    The horizontal axis is operations per byte, each array counted once; the vertical one operations per
    second. Filled marks are ours, hollow ones NumPy's and PyTorch's on the same work.

    Raises:
        ImportError: matplotlib is missing (the extra `plot`).
        ValueError: no case counts operations, or the suffix of `path` names no format of matplotlib.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    run = max(runs, key=lambda r: r.n_threads)
    results = [result for result in run.results if result.case["n_flops"] > 0]
    if not results:
        raise ValueError("plot: no case that counts operations was measured")
    with mpl.rc_context({"font.family": _fonts(), "font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(11.5, 7.6), dpi=160, facecolor="white")
        axes = figure.add_axes((0.075, 0.1, 0.9, 0.755))
        _axes(axes, results, run)
        roofs = [r for r in runs if r.n_threads in (1, run.n_threads)]
        obstacles = [box for r in roofs for box in _roof(axes, r, is_main=r is run)]
        _points(axes, results)
        _headline(figure, run)
        _legend(axes, results)
        place(axes, _anchors(results), _all_points(results), obstacles)
        figure.savefig(path)


def _fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]


def intensity(result: Result) -> float:
    """Operations per byte of the arrays."""
    return float(result.case["n_flops"] / result.case["n_bytes"])


def speed(result: Result, contender: str = OURS) -> float:
    """Billions of operations per second."""
    return float(result.case["n_flops"] / result.seconds(contender) / 1e9)


def _axes(axes: Any, results: Sequence[Result], run: Run) -> None:
    speeds = [speed(result, who) for result in results for who in result.samples]
    peak = 2e-9 * run.limits["fma"]
    low, high = min(map(intensity, results)), max(map(intensity, results))
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(min(low / 2.2, 0.2), max(high * 1.8, 100))
    axes.set_ylim(max(min(speeds) / 1.8, peak / 1e5), max(max(speeds), peak) * 2.2)
    axes.set_xlabel("arithmetic intensity, FLOP per byte", labelpad=8)
    axes.set_ylabel("GFLOP/s", labelpad=6)
    plain = _plain_number()
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    axes.grid(which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="major", length=0, labelcolor=INK, pad=6)
    axes.tick_params(which="minor", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _plain_number() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else f"{value:,.0f}")


def _roof(axes: Any, run: Run, *, is_main: bool) -> list[Box]:
    """The roof of a run and its labels; boxes that other labels must keep off."""
    read, peak = run.limits["read"] / 1e9, 2e-9 * run.limits["fma"]
    left, right = axes.get_xlim()
    ridge = peak / read
    style = {"color": INK if is_main else FAINT, "linewidth": 1.8 if is_main else 1.1, "zorder": 3}
    axes.plot([left, ridge, right], [left * read, peak, peak], solid_joinstyle="miter", **style)
    threads = f"{run.n_threads} thread{'s' * (run.n_threads > 1)}"
    text = {"color": style["color"], "fontsize": 9, "zorder": 5}
    above, below = ("bottom", 5) if is_main else ("top", -5)
    flat = axes.annotate(
        f"{peak:.0f} GFLOP/s float32, {threads}", (right, peak), (-4, below), textcoords="offset points",
        ha="right", va=above, **text,
    )  # fmt: skip
    at = left * (ridge / left) ** 0.3
    slope = axes.annotate(
        f"{read:.1f} GB/s read, {threads}", (at, at * read), (0, below), textcoords="offset points",
        rotation=45, rotation_mode="anchor", transform_rotates_text=True, ha="center", va=above, **text,
    )  # fmt: skip
    axes.figure.canvas.draw()
    boxes = [Box(*flat.get_window_extent().extents), *_along(slope.get_window_extent().extents)]
    steps = 160
    for i in range(steps):
        x = left * (right / left) ** ((i + 0.5) / steps)
        px, py = axes.transData.transform((x, min(x * read, peak)))
        boxes.append(Box(px, py, px, py).grown(1.5))
    return boxes


def _along(extents: Any) -> list[Box]:
    """The diagonal of a box as a chain of small ones: what a rotated text covers."""
    x0, y0, x1, y1 = extents
    n = 8
    w, h = (x1 - x0) / n, (y1 - y0) / n
    return [Box(x0 + i * w, y0 + i * h, x0 + (i + 1) * w, y0 + (i + 1) * h) for i in range(n)]


def _points(axes: Any, results: Sequence[Result]) -> None:
    """A filled mark per case; hollow ones for peers, joined to it by a thin line."""
    for result in results:
        colour, x, y = COLOURS[result.case["family"]], intensity(result), speed(result)
        peers = {who: speed(result, who) for who in PEER_MARKS if who in result.samples}
        ends = [y, *peers.values()]
        axes.plot([x, x], [min(ends), max(ends)], color=colour, linewidth=0.8, alpha=0.35, zorder=2)
        for who, value in peers.items():
            axes.plot(
                x, value, PEER_MARKS[who][0], markersize=4.2, markerfacecolor="white", markeredgecolor=colour,
                markeredgewidth=0.9, alpha=0.85, zorder=3.5,
            )  # fmt: skip
        axes.plot(
            x, y, "o", markersize=6.5, color=colour, markeredgecolor="white", markeredgewidth=0.7, zorder=4
        )


def _all_points(results: Sequence[Result]) -> list[tuple[float, float]]:
    return [(intensity(result), speed(result, who)) for result in results for who in result.samples]


def _anchors(results: Sequence[Result]) -> list[Label]:
    """A label per family, at the case that is nearest to the middle of its own."""
    labels = []
    for family, colour in COLOURS.items():
        own = [(intensity(r), speed(r)) for r in results if r.case["family"] == family]
        if own:
            x, y = max(own, key=lambda point: point[1])
            labels.append(Label(family, x, y, colour))
    return labels


def _headline(figure: Any, run: Run) -> None:
    figure.text(0.075, 0.945, f"lanner.ops on {run.n_threads} threads", fontsize=17, fontweight="bold")
    figure.text(0.075, 0.908, f"{run.machine}, {run.isa}", fontsize=10, color=FAINT)
    if run.noise:
        figure.text(0.975, 0.945, "measured on a noisy machine", fontsize=10, color="#b3261e", ha="right")
    figure.text(
        0.075, 0.022,
        "Arrays are counted once, as if caches were empty: work that fits a cache may pass the slope. "
        "2- to 8-bit weights are multiplied in integers and may pass the float32 roof.",
        fontsize=8.5, color=FAINT,
    )  # fmt: skip


def _legend(axes: Any, results: Sequence[Result]) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", color=INK, linestyle="", markersize=6.5, label="Lanner")]
    for who, (mark, name) in PEER_MARKS.items():
        if any(who in result.samples for result in results):
            marks.append(
                Line2D(
                    [], [], marker=mark, linestyle="", markersize=4.6, markerfacecolor="white",
                    markeredgecolor=INK, label=name,
                )
            )  # fmt: skip
    axes.legend(
        handles=marks, loc="lower right", bbox_to_anchor=(1.0, 1.005), ncols=3, frameon=False,
        handletextpad=0.2, columnspacing=1.2, borderpad=0,
    )  # fmt: skip
