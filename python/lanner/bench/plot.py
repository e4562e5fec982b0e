"""A roofline: what the operations reach beside what the machine can do (Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lanner.bench.contenders import OURS
from lanner.bench.labels import Box, Label, along, place
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
LEFT = 0.07
NOTE = (
    "Every array counts once, as if caches were empty, so work that fits a cache may pass the slope.\n"
    "Quantized weights of 2 to 8 bits are multiplied in integers, so they may pass the float32 roof."
)
PEER_MARKS = {"numpy": ("s", "NumPy"), "torch": ("o", "PyTorch")}


def roofline(runs: Sequence[Run], path: str) -> None:
    """Draw the run with most threads, its points and roof, and the roof of one thread, into a file.

    The horizontal axis is operations per byte, each array counted once; the vertical one operations per
    second. Filled marks are ours, hollow ones NumPy's and PyTorch's on the same work.

    Raises:
        ImportError: matplotlib is missing (the extra `plot`).
        ValueError: no case that counts operations, or `path` ends in nothing that matplotlib can write.
    """
    draw(runs).savefig(path)


def draw(runs: Sequence[Run]) -> Any:
    """The figure of `roofline`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    run = max(runs, key=lambda r: r.n_threads)
    if not run.results:
        raise ValueError("plot: nothing was measured")
    with mpl.rc_context({"font.family": fonts(), "font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(11.5, 7.8), dpi=160, facecolor="white")
        axes = figure.add_axes((LEFT, 0.125, 0.985 - LEFT, 0.735))
        _axes(axes, run)
        roofs = [r for r in runs if r.n_threads in (1, run.n_threads)]
        points = _all_points(run.results)
        obstacles = [box for r in roofs for box in _roof(axes, r, points, is_main=r is run)]
        _points(axes, run.results)
        _words(figure, run)
        _legend(axes, run.results)
        place(axes, _labels(run.results), points, obstacles)
    return figure


def fonts() -> list[str]:
    """Families that are installed, the preferred one first."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]


def intensity(result: Result) -> float:
    """Operations per byte of the arrays."""
    return float(result.case["n_flops"] / result.case["n_bytes"])


def speed(result: Result, contender: str = OURS) -> float:
    """Billions of operations per second."""
    return float(result.case["n_flops"] / result.seconds(contender) / 1e9)


def _axes(axes: Any, run: Run) -> None:
    results = run.results
    speeds = [speed(result, who) for result in results for who in result.samples]
    peak = 2e-9 * run.limits["fma"]
    low, high = min(map(intensity, results)), max(map(intensity, results))
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(min(low / 2.5, 0.1), max(high * 1.8, 100))
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


def _roof(axes: Any, run: Run, points: Sequence[tuple[float, float]], *, is_main: bool) -> list[Box]:
    """The roof of a run and what stands on it; boxes that labels must keep off."""
    read, peak = run.limits["read"] / 1e9, 2e-9 * run.limits["fma"]
    left, right = axes.get_xlim()
    ridge, colour = peak / read, INK if is_main else FAINT
    axes.plot(
        [left, ridge, right], [left * read, peak, peak], color=colour, linewidth=1.9 if is_main else 1.2,
        solid_joinstyle="miter", zorder=3,
    )  # fmt: skip
    threads = f"{run.n_threads} thread{'s' * (run.n_threads > 1)}"
    to_pixels = axes.transData.transform
    marks, corners = to_pixels(points), to_pixels([(left, left * read), (ridge, peak), (right, peak)])
    slope, top = f"{read:.1f} GB/s read, {threads}", f"{peak:.0f} GFLOP/s float32, {threads}"
    line = [left * (right / left) ** (i / 160) for i in range(161)]
    return [
        *along(axes, slope, corners[:2], marks, colour, above=is_main, from_end=False),
        *along(axes, top, corners[1:], marks, colour, above=is_main, from_end=True),
        *(Box(x, y, x, y).grown(1.5) for x, y in to_pixels([(x, min(x * read, peak)) for x in line])),
    ]


def _points(axes: Any, results: Sequence[Result]) -> None:
    """A filled mark per case; hollow ones for peers, joined to it by a thin line."""
    for result in results:
        colour, x, y = COLOURS[result.case["family"]], intensity(result), speed(result)
        peers = {who: speed(result, who) for who in PEER_MARKS if who in result.samples}
        ends = [y, *peers.values()]
        axes.plot([x, x], [min(ends), max(ends)], color=colour, linewidth=0.8, alpha=0.28, zorder=2)
        for who, value in peers.items():
            axes.plot(
                x, value, PEER_MARKS[who][0], markersize=4, markerfacecolor="white", markeredgecolor=colour,
                markeredgewidth=0.8, alpha=0.75, zorder=3.5,
            )  # fmt: skip
        axes.plot(
            x, y, "o", markersize=6.8, color=colour, markeredgecolor="white", markeredgewidth=0.8, zorder=4
        )


def _all_points(results: Sequence[Result]) -> list[tuple[float, float]]:
    return [(intensity(result), speed(result, who)) for result in results for who in result.samples]


def _labels(results: Sequence[Result]) -> list[Label]:
    """A label per family, for whichever of its fast cases has room."""
    families: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        families.setdefault(result.case["family"], []).append((intensity(result), speed(result)))
    labels = []
    for family, points in families.items():
        best = max(y for _, y in points)
        labels.append(Label(family, [(x, y) for x, y in points if y > best / 4], COLOURS[family]))
    return labels


def _words(figure: Any, run: Run) -> None:
    """Title, machine, warning, and how to read the picture."""
    threads = "one thread" if run.n_threads == 1 else f"{run.n_threads} threads"
    figure.text(LEFT, 0.945, f"lanner.ops with {threads}", fontsize=17, fontweight="bold")
    figure.text(LEFT, 0.908, f"{run.machine}, {run.isa}", fontsize=10, color=FAINT)
    if run.noise:
        figure.text(0.985, 0.945, "measured on a noisy machine", fontsize=10, color="#b3261e", ha="right")
    figure.text(LEFT, 0.022, NOTE, fontsize=8.5, color=FAINT, linespacing=1.5)


def _legend(axes: Any, results: Sequence[Result]) -> None:
    from matplotlib.lines import Line2D

    def mark(shape: str, name: str, **look: Any) -> Any:
        return Line2D([], [], marker=shape, linestyle="", label=name, **look)

    marks = [mark("o", "Lanner", color=INK, markersize=6.8)]
    for who, (shape, name) in PEER_MARKS.items():
        if any(who in result.samples for result in results):
            marks.append(mark(shape, name, markersize=4.6, markerfacecolor="white", markeredgecolor=INK))
    axes.legend(
        handles=marks, loc="lower right", bbox_to_anchor=(1.0, 1.01), ncols=3, frameon=False,
        handletextpad=0.2, columnspacing=1.2, borderpad=0, borderaxespad=0,
    )  # fmt: skip
