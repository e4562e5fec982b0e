"""Labels beside points of a picture, where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

N_DIRECTIONS = 24
RADII = (10, 14, 20, 28, 38, 50, 64, 80, 100, 125, 155, 190)
"""Points (1/72 inch) from a mark to the nearest edge of its label; the nearest that is free is taken."""

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

    def overlap(self, other: Box) -> float:
        """Area that both cover."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(width, 0.0) * max(height, 0.0)

    def grown(self, by: float) -> Box:
        """With a margin around it."""
        return Box(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)


@dataclass(frozen=True)
class Label:
    """A text for the point (x, y) in units of the axes."""

    text: str
    x: float
    y: float
    colour: str


def place(
    axes: Any, labels: Sequence[Label], points: Sequence[tuple[float, float]], obstacles: Sequence[Box]
) -> list[Any]:
    """Draw labels so that they cover neither each other nor `obstacles`, and as few `points` as can be.

    Every label tries positions around its point, nearest first; after all have one, each chooses again in
    view of the others. Returns the texts.
    """
    figure = axes.figure
    pixels = figure.dpi / 72
    frame = axes.get_window_extent()
    frame = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    to_pixels = axes.transData.transform
    marks = np.asarray(to_pixels(np.asarray(points, float)))
    texts = [
        axes.text(label.x, label.y, label.text, color=label.colour, fontsize=9.5, fontweight="bold", zorder=6)
        for label in labels
    ]
    figure.canvas.draw()
    sizes = [(extent.width, extent.height) for extent in (text.get_window_extent() for text in texts)]
    at = [tuple(to_pixels((label.x, label.y))) for label in labels]
    candidates = [_candidates(point, size, pixels) for point, size in zip(at, sizes, strict=True)]
    fixed = [
        [_cost_of_place(box, radius, frame, marks, obstacles, pixels) for box, radius in options]
        for options in candidates
    ]
    chosen = [options[int(np.argmin(costs))][0] for options, costs in zip(candidates, fixed, strict=True)]
    for _ in range(N_SWEEPS):
        for i, options in enumerate(candidates):
            others = [(box, at[j]) for j, box in enumerate(chosen) if j != i]
            costs = [
                cost + _cost_of_company(box, at[i], others, pixels)
                for (box, _), cost in zip(options, fixed[i], strict=True)
            ]
            chosen[i] = options[int(np.argmin(costs))][0]
    inverse = axes.transData.inverted().transform
    for text, label, box, point in zip(texts, labels, chosen, at, strict=True):
        text.set_position(inverse((box.x0, box.y0)))
        text.set_verticalalignment("bottom")
        edge = _nearest(box, point)
        if math.dist(edge, point) > LEADER_FROM * pixels:
            ends = np.asarray(inverse([edge, point]))
            axes.plot(ends[:, 0], ends[:, 1], color=label.colour, linewidth=0.7, alpha=0.7, zorder=2)
    return texts


def _candidates(
    point: tuple[float, float], size: tuple[float, float], pixels: float
) -> list[tuple[Box, float]]:
    """Boxes around a point with their distance from it, in points."""
    (x, y), (width, height) = point, size
    found: list[tuple[Box, float]] = []
    for radius in RADII:
        for step in range(N_DIRECTIONS):
            cos, sin = (f(2 * math.pi * step / N_DIRECTIONS) for f in (math.cos, math.sin))
            # The centre lies so far out that the nearest edge is `radius` away.
            cx = x + cos * (radius * pixels + width / 2)
            cy = y + sin * (radius * pixels + height / 2)
            found.append((Box(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), radius))
    return found


def _cost_of_place(
    box: Box,
    radius: float,
    frame: Box,
    marks: npt.NDArray[Any],
    obstacles: Sequence[Box],
    pixels: float,
) -> float:
    wide = box.grown(4 * pixels)
    inside = wide.overlap(frame) >= 0.999 * (wide.x1 - wide.x0) * (wide.y1 - wide.y0)
    covered = np.sum(
        (marks[:, 0] > wide.x0) & (marks[:, 0] < wide.x1) & (marks[:, 1] > wide.y0) & (marks[:, 1] < wide.y1)
    )
    blocked = sum(wide.overlap(obstacle) > 0 for obstacle in obstacles)
    return radius + 1e6 * (not inside) + 400.0 * float(covered) + 3000.0 * blocked


def _cost_of_company(
    box: Box,
    point: tuple[float, float],
    others: Sequence[tuple[Box, tuple[float, float]]],
    pixels: float,
) -> float:
    cost, leader = 0.0, (_nearest(box, point), point)
    for other, its_point in others:
        if box.grown(3 * pixels).overlap(other.grown(3 * pixels)) > 0:
            cost += 1e5
        its_leader = (_nearest(other, its_point), its_point)
        cost += 500.0 * _crosses(leader, other) + 500.0 * _crosses(its_leader, box)
        cost += 300.0 * _intersect(*leader, *its_leader)
    return cost


def _nearest(box: Box, point: tuple[float, float]) -> tuple[float, float]:
    """The point of a box that is nearest to another."""
    return min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)


def _crosses(line: tuple[tuple[float, float], tuple[float, float]], box: Box) -> bool:
    corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)]
    return any(_intersect(*line, corners[i], corners[i - 1]) for i in range(4))


def _intersect(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float], d: tuple[float, float]
) -> bool:
    def side(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
