"""DistilBERT: BERT's layers under other names, without token types (Sanh et al., 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner.models import _encoders, bert

if TYPE_CHECKING:
    from lanner.config import Settings
    from lanner.models._encoders import EncoderConfig
    from lanner.weights import Weights

_LAYER = "distilbert.transformer.layer.{}"

HF_PREFIX = "distilbert."
HF_NAMES = {
    "token_embd": "distilbert.embeddings.word_embeddings",
    "position_embd": "distilbert.embeddings.position_embeddings",
    "token_embd_norm": "distilbert.embeddings.LayerNorm",
    "blk.{}.attn_q": f"{_LAYER}.attention.q_lin",
    "blk.{}.attn_k": f"{_LAYER}.attention.k_lin",
    "blk.{}.attn_v": f"{_LAYER}.attention.v_lin",
    "blk.{}.attn_output": f"{_LAYER}.attention.out_lin",
    "blk.{}.attn_output_norm": f"{_LAYER}.sa_layer_norm",
    "blk.{}.ffn_up": f"{_LAYER}.ffn.lin1",
    "blk.{}.ffn_down": f"{_LAYER}.ffn.lin2",
    "blk.{}.layer_output_norm": f"{_LAYER}.output_layer_norm",
    "cls": "pre_classifier",
    "cls.output": "classifier",
}
HF_IGNORED = (*bert.HF_IGNORED, "vocab_transform.*", "vocab_layer_norm.*", "vocab_projector.*")
HF_KEYS = _encoders.HF_KEYS | {
    "embedding_length": "dim",
    "block_count": "n_layers",
    "attention.head_count": "n_heads",
    "feed_forward_length": "hidden_dim",
    "attention.layer_norm_epsilon": None,  # 1e-12, whatever the file says
    "hidden_act": "activation",
}
# The table of positions is stored, learned or not.
HARMLESS = _encoders.HARMLESS | {"sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout", "tie_weights_"}

build = bert.build


def config(s: Settings, w: Weights) -> EncoderConfig:
    """The sizes of the model; what is not supported is refused by name."""
    s.use(HF_KEYS, _encoders.HF_DEFAULTS, HARMLESS)
    return _encoders.config(s, w)


def load(cfg: EncoderConfig, w: Weights) -> bert.EncoderWeights:
    """Takes every tensor, by name and shape."""
    return bert.load(cfg, w, "relu")
