"""Mixtures of experts: Mixtral (Jiang et al., 2024), Qwen 2 MoE and Qwen 3 MoE (Yang et al., 2024, 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner import _core
from lanner._records import dataclass
from lanner.config import DecoderConfig
from lanner.models import _layers, _parts, _sizes, qwen
from lanner.models._rope import read_rope
from lanner.weights import Source

if TYPE_CHECKING:
    from lanner._builder_rows import Vector
    from lanner.builder import Builder, Rope
    from lanner.config import Settings
    from lanner.phases import Value
    from lanner.weights import Weights

_MLP = "model.layers.{}.mlp."
_MIXTRAL = "model.layers.{}.block_sparse_moe."

HF_PREFIX, HF_IGNORED = _sizes.HF_PREFIX, _sizes.HF_IGNORED
HF_NAMES = _sizes.HF_NAMES | {
    "blk.{}.ffn_gate_inp": f"{_MLP}gate",
    "blk.{}.ffn_gate_exps": f"{_MLP}experts.{{}}.gate_proj",
    "blk.{}.ffn_up_exps": f"{_MLP}experts.{{}}.up_proj",
    "blk.{}.ffn_down_exps": f"{_MLP}experts.{{}}.down_proj",
    "blk.{}.ffn_gate_inp_shexp": f"{_MLP}shared_expert_gate",
    "blk.{}.ffn_gate_shexp": f"{_MLP}shared_expert.gate_proj",
    "blk.{}.ffn_up_shexp": f"{_MLP}shared_expert.up_proj",
    "blk.{}.ffn_down_shexp": f"{_MLP}shared_expert.down_proj",
}
HF_NAMES_MIXTRAL = _sizes.HF_NAMES | {
    "blk.{}.ffn_gate_inp": f"{_MIXTRAL}gate",
    "blk.{}.ffn_gate_exps": f"{_MIXTRAL}experts.{{}}.w1",
    "blk.{}.ffn_up_exps": f"{_MIXTRAL}experts.{{}}.w3",
    "blk.{}.ffn_down_exps": f"{_MIXTRAL}experts.{{}}.w2",
}
MAX_EXPERTS = 1024
"""More than any model has; a bound for what a file may claim."""


@dataclass(frozen=True, kw_only=True)
class MoeConfig(DecoderConfig):
    """`intermediate_size` is the width of an expert, `shared_size` that of the shared one or 0."""

    rope: Rope
    n_experts: int
    n_experts_used: int
    normalise: bool
    shared_size: int
    has_head_norms: bool

    @property
    def mlp_size(self) -> int:
        """See DecoderConfig."""
        return self.n_experts_used * self.intermediate_size + self.shared_size


@dataclass(frozen=True)
class Shared:
    """The expert that every token passes, weighted by the sigmoid of its gate (1, hidden_size)."""

    gate: _core.Packed
    gate_up: _core.Packed
    down: _core.Packed


@dataclass(frozen=True)
class Layer:
    """Weights of one layer; experts stand one behind the other in `gate_up` and `down`."""

    attn_norm: Vector
    attn: _parts.Attention
    head_norms: tuple[Vector, Vector] | None
    ffn_norm: Vector
    router: _core.Packed
    gate_up: _core.Packed
    down: _core.Packed
    shared: Shared | None


@dataclass(frozen=True)
class MoeWeights:
    """All weights."""

    layers: list[Layer]
    ends: _parts.Ends


def config(s: Settings, w: Weights) -> MoeConfig:
    """The sizes of the model; what is not supported is refused by name."""
    is_mixtral, is_qwen3 = s.architecture in ("llama", "mixtral"), s.architecture in ("qwen3moe", "qwen3_moe")
    _use_keys(s, is_mixtral)
    s.must_equal("hidden_act", "silu")
    s.must_equal("decoder_sparse_step", 1)
    if layers := s.raw("mlp_only_layers"):
        raise _core.UnsupportedModelError(
            f"{s.source}: mlp_only_layers is {layers!r:.80}, only experts in every layer are supported"
        )
    n_experts = s.positive("expert_count", most=MAX_EXPERTS)
    sizes = _sizes.sizes(s, w)
    if not is_mixtral:
        sizes["intermediate_size"] = s.positive("expert_feed_forward_length", sizes["intermediate_size"])
    n_layers = sizes["n_layers"]
    window = _sizes.window(s) if is_mixtral else 0
    return MoeConfig(
        **sizes | {"windows": (window,) * n_layers if is_mixtral else qwen.windows(s, n_layers)},
        is_tied=_sizes.is_tied(s, w, otherwise=False),
        scale=sizes["head_dim"] ** -0.5,
        rope=read_rope(s, w, sizes["head_dim"], theta=1e6 if s.architecture == "mixtral" else 1e4),
        n_experts=n_experts,
        n_experts_used=s.positive("expert_used_count", most=n_experts),
        normalise=is_mixtral or s.default("norm_topk_prob", s.is_gguf and is_qwen3),
        shared_size=0 if is_mixtral or is_qwen3 else s.positive("expert_shared_feed_forward_length", 5632),
        has_head_norms=is_qwen3,
    )


def _use_keys(s: Settings, is_mixtral: bool) -> None:
    keys: dict[str, str | tuple[str, ...] | None] = {
        "expert_count": ("num_local_experts", "num_experts"),
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    }
    defaults = {"attention.layer_norm_rms_epsilon": 1e-5 if is_mixtral else 1e-6}
    s.use(
        keys, defaults if is_mixtral else defaults | qwen.HF_WINDOW, frozenset({"attention_bias", "qkv_bias"})
    )


def names(s: Settings) -> dict[str, str]:
    """The names of a folder's tensors."""
    return HF_NAMES_MIXTRAL if s.architecture == "mixtral" else HF_NAMES


def load(cfg: MoeConfig, w: Weights) -> MoeWeights:
    """Takes every tensor, by name and shape; Mixtral's Q and K stand in rotary pairs in a GGUF file."""
    hidden, width, n = cfg.hidden_size, cfg.intermediate_size, cfg.n_experts

    def layer(i: int) -> Layer:
        def of_expert(part: str, e: int, *shape: int) -> Source:
            return Source(f"blk.{i}.ffn_{part}_exps.weight", shape, index=e)

        gates_and_ups = (of_expert(part, e, width, hidden) for e in range(n) for part in ("gate", "up"))
        return Layer(
            attn_norm=_parts.norm(cfg, w, i, "attn_norm"),
            attn=_parts.attention(cfg, w, i, interleaved=cfg.architecture == "llama"),
            head_norms=_parts.head_norms(cfg, w, i) if cfg.has_head_norms else None,
            ffn_norm=_parts.norm(cfg, w, i, "ffn_norm"),
            router=w.packed(Source(f"blk.{i}.ffn_gate_inp.weight", (n, hidden)), keep=True),
            gate_up=w.packed(*gates_and_ups),
            down=w.packed(*(of_expert("down", e, hidden, width) for e in range(n))),
            shared=_shared(cfg, w, i) if cfg.shared_size else None,
        )

    return MoeWeights([layer(i) for i in range(cfg.n_layers)], _parts.ends(cfg, w))


def _shared(cfg: MoeConfig, w: Weights, layer: int) -> Shared:
    shape = (cfg.shared_size, cfg.hidden_size)
    return Shared(
        gate=w.packed(Source(f"blk.{layer}.ffn_gate_inp_shexp.weight", (1, cfg.hidden_size)), keep=True),
        gate_up=w.packed(*(Source(f"blk.{layer}.ffn_{half}_shexp.weight", shape) for half in ("gate", "up"))),
        down=w.packed(Source(f"blk.{layer}.ffn_down_shexp.weight", shape[::-1])),
    )


def build(b: Builder, cfg: MoeConfig, w: MoeWeights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.embed(w.ends.tok)
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = b.rms_norm(x, layer.attn_norm, cfg.norm_eps, "attn.norm")
        h = _layers.attend(b, cfg, i, h, layer.attn, cfg.rope, head_norms=layer.head_norms)
        x = b.add(x, h, "attn.add")
        h = b.rms_norm(x, layer.ffn_norm, cfg.norm_eps, "ffn.norm")
        routed = b.moe(
            h, layer.router, layer.gate_up, layer.down, cfg.n_experts_used, cfg.normalise, "ffn.experts"
        )
        x = b.add(x, routed, "ffn.add")
        if layer.shared:
            gate = b.linear(h, layer.shared.gate, "ffn.shared.gate")
            part = b.gate_up(h, layer.shared.gate_up, "ffn.shared.gate_up")
            x = b.add_gated(x, b.linear(part, layer.shared.down, "ffn.shared.down"), gate, "ffn.shared.add")
    return _layers.rms_logits(b, cfg, x, w.ends)
