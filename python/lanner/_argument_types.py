"""Types of arguments of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def number(convert: type[int | float], low: float, high: float, wanted: str) -> Callable[[str], float]:
    """Reads a number from `low` to `high`; `wanted` says in an error what these are."""

    def parse(text: str) -> float:
        try:
            value = convert(text)
        except ValueError:
            value = convert(low - 1)
        if not low <= value <= high:  # also false for nan
            raise argparse.ArgumentTypeError(f"{text!r} given, wanted {wanted}")
        return value

    return parse
