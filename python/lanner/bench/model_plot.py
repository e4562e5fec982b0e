"""Bars of measured models: Lanner and its peer in each row, with the limit of the machine drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lanner.bench.model_results import LANNER, ModelRun, Row
from lanner.bench.plot import FAINT, GRID, INK, fonts

OURS, THEIRS, LIMIT = "#1f5fa8", "#b9c2ca", "#c23b22"
ROW_HEIGHT, HEAD, FOOT, LEFT, GAP = 0.72, 1.3, 0.72, 2.45, 0.55
"""Inches: of a row, above and below all of them, left of the first model, between two models."""

BARS, FIGURES = 3.4, 1.85
"""Inches of a model: its bars, the figures right of them."""

FARTHEST = 2.5
"""Times the longest bar: a limit beyond it is not drawn, bars would become too short to compare."""

BAR, OFFSET = 0.36, 0.2
NOTE = (
    "Red: what the machine allows. For decoding, the bytes that it reads from memory; for prompts, float32\n"
    "multiply-adds (weights of 2 to 8 bits are multiplied in integers, so may pass them); for memory, the "
    "file."
)


def bars(runs: Sequence[ModelRun], path: str) -> None:
    """Draw a column of rows for each model into a file.

    Raises:
        ImportError: matplotlib is missing (the extra `plot`).
        ValueError: nothing was measured, or `path` ends in nothing that matplotlib can write.
    """
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lanner"}):
        draw(runs).savefig(path)


def draw(runs: Sequence[ModelRun]) -> Any:
    """The figure of `bars`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    titles = list(dict.fromkeys(row.title for run in runs for row in run.rows))
    if not titles:
        raise ValueError("plot: nothing was measured")
    width = LEFT + len(runs) * (BARS + FIGURES + GAP) - GAP + 0.2
    height = HEAD + ROW_HEIGHT * len(titles) + FOOT
    with mpl.rc_context({"font.family": fonts(), "font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
        for column, run in enumerate(runs):
            rows = {row.title: row for row in run.rows}
            x = LEFT + column * (BARS + FIGURES + GAP)
            y = 1 - (HEAD - 0.14) / height
            figure.text(x / width, y, run.name, fontsize=10.5, fontweight="bold", va="bottom")
            for i, title in enumerate(titles):
                y = height - HEAD - (i + 1) * ROW_HEIGHT
                axes = figure.add_axes((x / width, y / height, BARS / width, ROW_HEIGHT * 0.88 / height))
                _row(axes, run, rows.get(title))
                if column == 0:
                    _title(figure, title, (LEFT - 0.15) / width, (y + ROW_HEIGHT * 0.44) / height)
        _words(figure, runs, width, height)
    return figure


def _title(figure: Any, title: str, x: float, y: float) -> None:
    head, _, rest = title.partition(", ")
    figure.text(x, y, f"{head}\n{rest}" if rest else head, ha="right", va="center", linespacing=1.35)


def _row(axes: Any, run: ModelRun, row: Row | None) -> None:
    """Bars and limit of a row, and the figures right of them."""
    axes.set_axis_off()
    axes.set_ylim(0.55, -0.55)
    if row is None:
        axes.text(0, 0.0, "left out", color=FAINT, va="center")
        return
    limit = run.limit(row)
    longest = max(row.median(who) for who in row.contenders)
    is_near = limit is not None and limit <= FARTHEST * longest
    axes.set_xlim(0, 1.02 * (max(longest, limit) if limit is not None and is_near else longest))
    axes.plot([0, 0], [-0.5, 0.5], color=GRID, linewidth=1.2, zorder=1)
    for who in row.contenders:
        is_ours = who == LANNER
        y = 0.0 if row.peer is None else -OFFSET if is_ours else OFFSET
        axes.barh(y, row.median(who), height=BAR, color=OURS if is_ours else THEIRS, zorder=2)
        look: dict[str, Any] = {"fontweight": "bold"} if is_ours else {"color": FAINT}
        _figure(axes, 0.6 * FIGURES, y, row.number(row.median(who)), **look)
    if row.ratio is not None:
        _figure(axes, FIGURES, -OFFSET, f"{row.ratio:.2f}x", fontweight="bold", color=OURS)
    if limit is not None:
        _figure(axes, FIGURES, OFFSET, f"{limit:.3g}" if limit < 100 else f"{limit:.0f}", color=LIMIT)
        if is_near:
            ends = {"linewidth": 1.8, "solid_capstyle": "butt"}
            axes.plot([limit, limit], [-0.46, 0.46], color=LIMIT, zorder=5, **ends)


def _figure(axes: Any, right: float, y: float, text: str, **look: Any) -> None:
    """A number whose last letter stands `right` inches right of the bars."""
    axes.annotate(
        text, (1, y), xytext=(72 * right, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", va="center", fontsize=9.5, annotation_clip=False, **look,
    )  # fmt: skip


def _words(figure: Any, runs: Sequence[ModelRun], width: float, height: float) -> None:
    """Title, machine, legend and how to read the picture."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    run = runs[0]
    peers = [e for name, e in run.engines.items() if name != "lanner"]
    left = 0.2 / width
    beside = f"{peers[0]['name']}, the same file" if peers else "the limits of the machine"
    figure.text(
        left, 1 - 0.36 / height, f"Lanner beside {beside}", fontsize=15, fontweight="bold", va="center"
    )
    versions = ", ".join(f"{e['name']} {e['version']}" for e in run.engines.values())
    threads = f"{run.n_threads} thread{'s' * (run.n_threads > 1)}"
    limits = f"{run.limits['read'] / 1e9:.1f} GB/s, {run.limits['fma'] / 1e9:.0f} GMAC/s"
    about = f"{run.machine}, {threads}: {limits}; {versions}"
    figure.text(left, 1 - 0.64 / height, about, fontsize=9, color=FAINT, va="center")
    figure.text(left, 0.12 / height, NOTE, fontsize=8.5, color=FAINT, linespacing=1.45, va="bottom")
    handles: list[Any] = [Patch(color=OURS, label="Lanner")]
    handles += [Patch(color=THEIRS, label=peer["name"]) for peer in peers]
    handles.append(Line2D([], [], color=LIMIT, linewidth=1.6, label="limit"))
    figure.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(1 - 0.1 / width, 1 - 0.27 / height),
        frameon=False, ncols=len(handles), fontsize=9, borderpad=0, borderaxespad=0, handlelength=1.2,
        columnspacing=1.4,
    )  # fmt: skip
