"""Labels beside points of a picture, where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

N_DIRECTIONS = 16
DISTANCES = (10, 14, 20, 28, 38, 50, 64, 80, 100, 125, 155, 190)
"""Points (1/72 inch) from a mark to the nearest edge of its label; the nearest that is free is taken."""

CLEAR_OF_MARK = 7
"""Points that a label keeps from the centre of its mark, whose radius is about half of that."""

LEADER_FROM = 16
"""Points from which on a thin line joins label and mark."""

N_SWEEPS = 4


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: Box) -> bool:
        """Whether both cover some area."""
        beside = self.x1 <= other.x0 or other.x1 <= self.x0
        return not (beside or self.y1 <= other.y0 or other.y1 <= self.y0)

    def grown(self, by: float) -> Box:
        """With a margin around it."""
        return Box(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)


@dataclass(frozen=True)
class Label:
    """A text for any one of some points (x, y) in units of the axes."""

    text: str
    points: Sequence[tuple[float, float]]
    colour: str


@dataclass(frozen=True)
class Spot:
    """Where a label may stand, in pixels; `distance` from the point that it names is in points."""

    box: Box
    point: tuple[float, float]
    distance: float

    @property
    def edge(self) -> tuple[float, float]:
        """The place on the box that is nearest to the point."""
        (x, y), box = self.point, self.box
        return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)


def place(
    axes: Any, labels: Sequence[Label], points: Sequence[tuple[float, float]], obstacles: Sequence[Box]
) -> list[Any]:
    """Draw labels so that they cover neither each other nor `obstacles`, and as few `points` as can be.

    Every label tries positions around its points, nearest first; after all have one, each chooses again in
    view of the others. Returns the texts.
    """
    pixels = axes.figure.dpi / 72
    frame = np.asarray(axes.get_window_extent().extents)
    to_pixels = axes.transData.transform
    marks = np.asarray(to_pixels(np.asarray(points, float)))
    walls = np.array([(b.x0, b.y0, b.x1, b.y1) for b in obstacles]).reshape(-1, 4)
    texts = [_text(axes, label) for label in labels]
    axes.figure.canvas.draw()
    options, costs = [], []
    for label, text in zip(labels, texts, strict=True):
        size = text.get_window_extent()
        spots = [s for p in to_pixels(np.asarray(label.points, float)) for s in _spots(p, size, pixels)]
        options.append(spots)
        costs.append(_costs_of_places(spots, frame, marks, walls, pixels))
    chosen = [spots[int(np.argmin(cost))] for spots, cost in zip(options, costs, strict=True)]
    for _ in range(N_SWEEPS):
        for i, spots in enumerate(options):
            others = chosen[:i] + chosen[i + 1 :]
            # Company only adds: spots that alone cost more than the best so far need no look at it.
            best, best_cost = chosen[i], np.inf
            for j in np.argsort(costs[i], kind="stable"):
                if costs[i][j] >= best_cost:
                    break
                cost = costs[i][j] + _cost_of_company(spots[j], others, pixels)
                if cost < best_cost:
                    best, best_cost = spots[j], cost
            chosen[i] = best
    for text, label, spot in zip(texts, labels, chosen, strict=True):
        _settle(axes, text, label, spot, pixels)
    return texts


def along(axes: Any, text: str, line: npt.NDArray[Any], marks: npt.NDArray[Any], colour: str, *,
          above: bool, from_end: bool) -> list[Box]:  # fmt: skip
    """Write on a straight line where the fewest marks are covered, else as near to one end as can be.

    `line` (2, 2) and `marks` (n, 2) are in pixels. Returns a chain of boxes that the text covers.
    """
    pixels, sign = axes.figure.dpi / 72, 1 if above else -1
    length = math.dist(*line)
    u = (line[1] - line[0]) / length
    normal = np.array((-u[1], u[0])) * sign
    written = axes.text(
        0, 0, text, color=colour, fontsize=9, transform=None, zorder=5, path_effects=halo(),
        va="bottom" if above else "top", rotation_mode="anchor",
    )  # fmt: skip
    axes.figure.canvas.draw()
    size = written.get_window_extent()
    ahead, aside = (marks - line[0]) @ u, (marks - line[0]) @ normal
    close = ahead[(aside > 0) & (aside < size.height + 8 * pixels)]
    margin = 8 * pixels
    starts = np.linspace(margin, max(length - size.width - margin, margin), 60)[:: -1 if from_end else 1]
    covered = [((close > t - margin) & (close < t + size.width + margin)).sum() for t in starts]
    at = line[0] + u * starts[int(np.argmin(covered))] + normal * 4 * pixels
    written.set_position(at)
    written.set_rotation(math.degrees(math.atan2(u[1], u[0])))
    n = 12
    middle = at + normal * size.height / 2
    steps = [middle + u * size.width * (i + 0.5) / n for i in range(n)]
    return [Box(x, y, x, y).grown(size.height / 2) for x, y in steps]


def halo() -> list[Any]:
    """White around letters, so that they can be read where a line passes behind them."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground="white")]


def _text(axes: Any, label: Label) -> Any:
    return axes.text(
        *label.points[0], label.text, color=label.colour, fontsize=9.5, fontweight="bold", zorder=6,
        va="bottom", path_effects=halo(),
    )  # fmt: skip


def _settle(axes: Any, text: Any, label: Label, spot: Spot, pixels: float) -> None:
    """Move a text to its spot, and join it to its point where that is not near."""
    to_data = axes.transData.inverted().transform
    text.set_position(to_data((spot.box.x0, spot.box.y0)))
    if math.dist(spot.edge, spot.point) > LEADER_FROM * pixels:
        ends = np.asarray(to_data([spot.edge, spot.point]))
        axes.plot(ends[:, 0], ends[:, 1], color=label.colour, linewidth=0.7, alpha=0.7, zorder=2)


def _spots(point: npt.NDArray[Any], size: Any, pixels: float) -> list[Spot]:
    """Around a point, for a text of the size of a box."""
    (x, y), found = map(float, point), []
    for distance in DISTANCES:
        for step in range(N_DIRECTIONS):
            angle = 2 * math.pi * step / N_DIRECTIONS
            # The centre lies so far out that the nearest edge is about `distance` away.
            cx = x + math.cos(angle) * (distance * pixels + size.width / 2)
            cy = y + math.sin(angle) * (distance * pixels + size.height / 2)
            box = Box(cx - size.width / 2, cy - size.height / 2, cx + size.width / 2, cy + size.height / 2)
            spot = Spot(box, (x, y), distance)
            if math.dist(spot.edge, spot.point) > CLEAR_OF_MARK * pixels:
                found.append(spot)
    return found


def _costs_of_places(
    spots: Sequence[Spot],
    frame: npt.NDArray[Any],
    marks: npt.NDArray[Any],
    walls: npt.NDArray[Any],
    pixels: float,
) -> npt.NDArray[Any]:
    """`frame` (4,) must hold a label, `walls` (n, 4) must not meet it, `marks` (m, 2) had better not."""
    boxes = np.array([(s.box.x0, s.box.y0, s.box.x1, s.box.y1) for s in spots])
    low, high = boxes[:, None, :2] - 4 * pixels, boxes[:, None, 2:] + 4 * pixels
    outside = ((low < frame[:2]) | (high > frame[2:])).any((1, 2))
    n_covered = ((marks > low) & (marks < high)).all(2).sum(1)
    n_touched = ((walls[:, 2:] > low) & (walls[:, :2] < high)).all(2).sum(1)
    distances = np.array([s.distance for s in spots])
    return np.asarray(distances + 1e6 * outside + 400.0 * n_covered + 3000.0 * n_touched)


def _cost_of_company(spot: Spot, others: Sequence[Spot], pixels: float) -> float:
    cost, leader, box = 0.0, (spot.edge, spot.point), spot.box.grown(3 * pixels)
    for other in others:
        its_leader = (other.edge, other.point)
        cost += 1e5 * box.overlaps(other.box.grown(3 * pixels))
        cost += 500.0 * (_crosses(leader, other.box) + _crosses(its_leader, spot.box))
        cost += 300.0 * _intersect(*leader, *its_leader)
    return cost


def _crosses(line: tuple[tuple[float, float], tuple[float, float]], box: Box) -> bool:
    corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)]
    return any(_intersect(*line, corners[i], corners[i - 1]) for i in range(4))


def _intersect(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float], d: tuple[float, float]
) -> bool:
    def side(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
