"""What a model must read and multiply for a token, from its headers alone: the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lanner import _core, models
from lanner.checkpoint import open_checkpoint
from lanner.plan import plan

if TYPE_CHECKING:
    from lanner.builder import Instruction

KV_ITEM_BYTES = 2
"""Of the f16 in which every engine keeps keys and values."""


@dataclass(frozen=True)
class ModelCosts:
    """Sizes of a model.

    Attributes:
        file_bytes: of all files of weights.
        weight_bytes: of the weights that a step of one token reads: of an embedding a row, of experts those
            that the token goes to.
        layer_macs: multiply-adds of the weights of all layers, per token.
        head_macs: of the weights that make logits, once for each row of logits.
        pair_macs: of attention, for a query and a key in one layer.
        kv_bytes: of the keys and values of a position in one layer.
        windows: how many positions each layer sees, 0 for all up to its own.
        context_length: positions that the model was trained for.
        n_params: all parameters.
    """

    file_bytes: int
    weight_bytes: int
    layer_macs: float
    head_macs: float
    pair_macs: float
    kv_bytes: int
    windows: tuple[int, ...]
    context_length: int
    n_params: int

    def prefill_macs(self, n_tokens: int) -> float:
        """Multiply-adds of a prompt into an empty cache, logits for its last token."""
        pairs = sum(_n_pairs(n_tokens, window) for window in self.windows)
        return self.layer_macs * n_tokens + self.head_macs + self.pair_macs * pairs

    def decode_bytes(self, n_context: float) -> float:
        """Bytes that a step of one token reads behind `n_context` positions."""
        seen = sum(min(n_context, window or n_context) for window in self.windows)
        return self.weight_bytes + self.kv_bytes * seen


def _n_pairs(n_tokens: int, window: int) -> float:
    """(query, key) pairs of a causal prompt: 1 + 2 + ... until a window is full."""
    rising = min(n_tokens, window or n_tokens)
    return rising * (rising + 1) / 2 + (n_tokens - rising) * rising


def model_costs(path: str | Path) -> ModelCosts:
    """The sizes of a decoder.

    Raises:
        OSError, ModelFileError, UnsupportedModelError: as loading it, and for what does not continue texts.
    """
    checkpoint = open_checkpoint(path)
    if models.is_encoder(checkpoint.settings) or models.is_seq2seq(checkpoint.settings):
        raise _core.UnsupportedModelError(
            f"{checkpoint.path}: bench: the architecture is {checkpoint.architecture!r}, wanted a decoder"
        )
    planned = plan(checkpoint, context=None, kv_dtype="f16", quantize=None)
    c = planned.config
    # Norms have a vector by the name of a weight.
    weighted = [
        i
        for i in planned.builder.instructions
        if i.op != "embed" and hasattr(i.args.get("weight"), "segment_rows")
    ]
    return ModelCosts(
        file_bytes=checkpoint.n_bytes,
        weight_bytes=planned.weight_bytes_per_token,
        layer_macs=sum(_macs(i) for i in weighted if i.args["out"].kind == "tokens"),
        head_macs=sum(_macs(i) for i in weighted if i.args["out"].kind == "outputs"),
        pair_macs=2.0 * c.n_heads * c.head_dim,
        kv_bytes=2 * KV_ITEM_BYTES * c.n_kv_heads * c.head_dim,
        windows=tuple(planned.windows),
        context_length=c.context_length,
        n_params=planned.n_params,
    )


def _macs(instruction: Instruction) -> float:
    """Multiply-adds of a row with its weight matrix."""
    args, weight = instruction.args, instruction.args["weight"]
    share = args["ids"].cols / args["n_experts"] if "n_experts" in args else 1.0
    return float(weight.shape[0] * weight.shape[1]) * share
