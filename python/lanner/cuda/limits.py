"""What the kernels of GPUs have no code for, asked before a model takes memory there."""

from __future__ import annotations

from typing import Any

from lanner._core import UnsupportedModelError
from lanner.cuda.symbols import Launch

HEAD_DIMS = (64, 128, 256)
"""Dimensions of a head that attention is compiled for, as csrc/cuda/attention.h says."""

ROTATED = 16
"""Rotated dimensions of a head come in multiples of it, as do the dimensions of a head."""

NORM_COLS = 16384
"""The most that a block keeps of a row in registers: kNormMostCols of csrc/cuda/norm.h."""

VOCABULARY = 524288
"""The most logits of a row that are drawn from: kSampleMostVocab of csrc/cuda/sample.h."""

NORMED = {"rms_norm": ("cols",), "layer_norm": ("cols",), "qk_norm": ("q_cols", "k_cols")}
"""Norms of whole rows, and the arguments that have their columns."""

BY_ELEMENTS = ("gather_rows", "add", "add_positions", "activate", "scale", "softcap")
"""Operations that read 16 bytes at a time."""


def check_launch(launch: Launch) -> None:
    """Raises UnsupportedModelError where an operation has no code for the sizes of a launch."""
    args = launch.args
    if launch.op.startswith("attention"):
        _check(launch, "head_dim", args["head_dim"], args["head_dim"] in HEAD_DIMS, "64, 128 or 256")
    if launch.op == "head_norm":
        _multiple(launch, "head_dim", args, 8, 512)
    if launch.op == "rope_append":  # the end of a matmul is made for these sizes alone
        _multiple(launch, "head_dim", args, ROTATED)
        _multiple(launch, "rope_dim", args, ROTATED, args["head_dim"])
    for name in NORMED.get(launch.op, ()):
        _multiple(launch, name, args, 8, NORM_COLS)
    if launch.op in BY_ELEMENTS:
        _multiple(launch, "cols", args, 4 if args.get("type") == 0 else 8)
    if launch.op == "sample":
        _multiple(launch, "vocab_size", args, 1, VOCABULARY)


def _multiple(launch: Launch, name: str, args: dict[str, Any], of: int, most: int | None = None) -> None:
    given = args[name]
    is_met = given % of == 0 and (most is None or given <= most)
    _check(launch, name, given, is_met, f"a multiple of {of}" + (f" up to {most}" if most else ""))


def _check(launch: Launch, name: str, given: int, is_met: bool, wanted: str) -> None:
    if not is_met:
        raise UnsupportedModelError(
            f"device='cuda': operation {launch.op} ({launch.name}) has {name} {given}, wanted {wanted}; "
            "use device='cpu'"
        )
