"""Gemma 2 and 3: norms before and behind each part, local and global layers (Gemma Team, 2024 and 2025).

Gemma 2 caps scores and logits, Gemma 3 has norms on the heads and another rotary base in its local layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner import _core
from lanner._records import dataclass
from lanner.builder import Rope
from lanner.config import DecoderConfig
from lanner.models import _layers, _parts, _sizes
from lanner.models._rope import plain, read_rope

if TYPE_CHECKING:
    from lanner._builder_rows import Vector
    from lanner.builder import Builder
    from lanner.config import Settings
    from lanner.phases import Value
    from lanner.weights import Weights

HF_PREFIX, HF_IGNORED = _sizes.HF_PREFIX, _sizes.HF_IGNORED
HF_NAMES = _sizes.HF_NAMES | {
    "blk.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_norm": "model.layers.{}.pre_feedforward_layernorm",
    "blk.{}.post_ffw_norm": "model.layers.{}.post_feedforward_layernorm",
}
HF_HEAD_DIM = 256
"""Columns of a head where a folder does not say."""

ATTN_CAP, LOGIT_CAP = 50.0, 30.0
"""Gemma 2's caps of scores and logits where a checkpoint does not mention them."""

LOCAL_THETA = 1e4
"""Rotary base of Gemma 3's local layers; its first GGUF files do not say so."""


@dataclass(frozen=True, kw_only=True)
class GemmaConfig(DecoderConfig):
    """`local_rope` rotates the layers with a window; a cap of 0 is none."""

    rope: Rope
    local_rope: Rope
    has_head_norms: bool
    attn_softcap: float
    logit_softcap: float


@dataclass(frozen=True)
class Layer:
    """Weights of one layer."""

    attn_norm: Vector
    attn: _parts.Attention
    head_norms: tuple[Vector, Vector] | None
    post_attn_norm: Vector
    ffn_norm: Vector
    gate_up: _core.Packed
    down: _core.Packed
    post_ffn_norm: Vector


@dataclass(frozen=True)
class GemmaWeights:
    """All weights."""

    layers: list[Layer]
    ends: _parts.Ends


def config(s: Settings, w: Weights) -> GemmaConfig:
    """The sizes of the model; what is not supported is refused by name."""
    is_gemma3 = s.architecture != "gemma2"
    defaults: dict[str, object] = {
        "attention.key_length": HF_HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "query_pre_attn_scalar": HF_HEAD_DIM,
    }
    if not is_gemma3:
        defaults |= {"attn_logit_softcapping": ATTN_CAP, "final_logit_softcapping": LOGIT_CAP}
    s.use(
        {
            "attention.sliding_window": ("sliding_window", "sliding_window_size"),
            "attention.sliding_window_pattern": ("sliding_window_pattern", "_sliding_window_pattern"),
        },
        defaults,
        frozenset({"attention_bias"}),
    )
    # Older folders name another function in hidden_act and the one that was trained in hidden_activation.
    s.must_equal("hidden_activation", "gelu_pytorch_tanh")
    s.must_equal("use_bidirectional_attention", False)
    s.raw("hidden_act")
    sizes = _sizes.sizes(s, w)
    head_dim, n_layers = sizes["head_dim"], sizes["n_layers"]
    # Of the 27B models alone the scale goes by hidden_size; GGUF files do not say so.
    is_27b = s.is_gguf and n_layers == (62 if is_gemma3 else 46)
    scalar = s.real(
        "query_pre_attn_scalar", sizes["hidden_size"] / sizes["n_heads"] if is_27b else float(head_dim)
    )
    # The last of so many layers is global.
    every = s.positive("attention.sliding_window_pattern", 6 if is_gemma3 else 2)
    window = s.positive("attention.sliding_window", 4096)
    cap = float(s.is_gguf and not is_gemma3)  # null in a folder is no cap
    rope = read_rope(s, w, head_dim, layers="full_attention", theta=1e6 if is_gemma3 else 1e4)
    return GemmaConfig(
        **sizes | {"windows": _sizes.layer_windows(s, n_layers, window, lambda i: (i + 1) % every != 0)},
        is_tied=_sizes.is_tied(s, w, otherwise=True),
        scale=scalar**-0.5,
        rope=rope,
        local_rope=_local_rope(s, w, head_dim) if is_gemma3 else rope,
        has_head_norms=is_gemma3,
        attn_softcap=s.default("attn_logit_softcapping", cap * ATTN_CAP),
        logit_softcap=s.default("final_logit_softcapping", cap * LOGIT_CAP),
    )


def _local_rope(s: Settings, w: Weights, head_dim: int) -> Rope:
    """The rotation of layers with a window, which nothing stretches; newer folders state it as the other."""
    by_layer = None if s.is_gguf else s.raw("rope_parameters")
    if isinstance(by_layer, dict) and "sliding_attention" in by_layer:
        return read_rope(s, w, head_dim, layers="sliding_attention", theta=LOCAL_THETA)
    key = "rope.freq_base_swa" if s.is_gguf else "rope_local_base_freq"
    return Rope(plain(head_dim, s.real(key, LOCAL_THETA)))


def load(cfg: GemmaConfig, w: Weights) -> GemmaWeights:
    """Takes every tensor, by name and shape. Norms scale by 1 + what a folder stores, GGUF has the sum."""

    def layer(i: int) -> Layer:
        return Layer(
            attn_norm=_parts.norm(cfg, w, i, "attn_norm", plus=1.0),
            attn=_parts.attention(cfg, w, i),
            head_norms=_parts.head_norms(cfg, w, i, plus=1.0) if cfg.has_head_norms else None,
            post_attn_norm=_parts.norm(cfg, w, i, "post_attention_norm", plus=1.0),
            ffn_norm=_parts.norm(cfg, w, i, "ffn_norm", plus=1.0),
            gate_up=_parts.gate_up(cfg, w, i),
            down=_parts.down(cfg, w, i),
            post_ffn_norm=_parts.norm(cfg, w, i, "post_ffw_norm", plus=1.0),
        )

    return GemmaWeights([layer(i) for i in range(cfg.n_layers)], _parts.ends(cfg, w, norm_plus=1.0))


def build(b: Builder, cfg: GemmaConfig, w: GemmaWeights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.scale(b.embed(w.ends.tok), cfg.hidden_size**0.5, "embed.scale")
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = b.rms_norm(x, layer.attn_norm, cfg.norm_eps, "attn.norm")
        rope = cfg.local_rope if cfg.windows[i] else cfg.rope
        h = _layers.attend(
            b, cfg, i, h, layer.attn, rope, head_norms=layer.head_norms, softcap=cfg.attn_softcap
        )
        x = b.add(x, b.rms_norm(h, layer.post_attn_norm, cfg.norm_eps, "attn.post_norm"), "attn.add")
        h = b.rms_norm(x, layer.ffn_norm, cfg.norm_eps, "ffn.norm")
        h = b.linear(b.gate_up(h, layer.gate_up, "ffn.gate_up", function="gelu_tanh"), layer.down, "ffn.down")
        x = b.add(x, b.rms_norm(h, layer.post_ffn_norm, cfg.norm_eps, "ffn.post_norm"), "ffn.add")
    logits = _layers.rms_logits(b, cfg, x, w.ends)
    return b.softcap(logits, cfg.logit_softcap, "softcap") if cfg.logit_softcap else logits
