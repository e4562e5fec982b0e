"""What the architecture files emit alike: attention, MLPs without gate, norms, the way to the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanner import _core
    from lanner._builder_rows import Function, Vector
    from lanner.builder import Builder, Rope
    from lanner.config import DecoderConfig
    from lanner.models import _parts
    from lanner.phases import Value


def attend(
    b: Builder,
    cfg: DecoderConfig,
    layer: int,
    h: Value,
    w: _parts.Attention,
    rope: Rope | None,
    *,
    head_norms: tuple[Vector, Vector] | None = None,
    softcap: float = 0.0,
    add_to: Value | None = None,
) -> Value:
    """Attention of one layer on the normed h, and its projection; without a rope nothing is rotated."""
    qkv = b.linear(h, w.qkv, "attn.qkv", bias=w.qkv_bias, by_heads=True)
    if head_norms:
        qkv = b.head_norm(qkv, *head_norms, cfg.norm_eps, "attn.head_norm")
    q = b.rope_append(qkv, layer, rope, "attn.rope") if rope else b.append(qkv, layer, "attn.append")
    mixed = b.attention(q, layer, cfg.scale, "attn", window=cfg.windows[layer], softcap=softcap)
    return b.linear(mixed, w.o, "attn.o", bias=w.o_bias, add_to=add_to)


def rms_logits(b: Builder, cfg: DecoderConfig, x: Value, w: _parts.Ends) -> Value:
    """Logits (R, vocab_size) of the rows that are wanted, behind an RMS norm."""
    b.scope = ""
    return b.linear(b.rms_norm(b.gather_rows(x, "last"), w.norm, cfg.norm_eps, "norm"), w.head, "head")


def logits(b: Builder, cfg: DecoderConfig, x: Value, norm: _parts.LayerNorm, head: _core.Packed) -> Value:
    """Logits (R, vocab_size) of the rows that are wanted, behind a layer norm."""
    b.scope = ""
    return b.linear(normed(b, cfg, b.gather_rows(x, "last"), norm, "norm"), head, "head")


def normed(b: Builder, cfg: DecoderConfig, x: Value, w: _parts.LayerNorm, name: str) -> Value:
    """x behind a layer norm."""
    return b.layer_norm(x, w.weight, w.bias, cfg.norm_eps, name)


def ungated(b: Builder, h: Value, w: _parts.Mlp, function: Function, *, add_to: Value | None = None) -> Value:
    """An MLP without gate on the normed h."""
    h = b.activate(b.linear(h, w.up, "ffn.up", bias=w.up_bias, by_blocks=True), function, "ffn.act")
    return b.linear(h, w.down, "ffn.down", bias=w.down_bias, add_to=add_to)
