"""What the encoders share: their configuration, and the heads that classify.

Tensors go by the names of GGUF; a table of each architecture says what a Hugging Face folder calls them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner import _core
from lanner._records import dataclass
from lanner.config import MAX_CONTEXT, DecoderConfig
from lanner.models import _sizes

if TYPE_CHECKING:
    from lanner._builder_rows import Function
    from lanner.config import Settings
    from lanner.weights import Weights

HF_KEYS = {"attention.head_count_kv": None, "attention.key_length": None}
HF_DEFAULTS = {
    "context_length": 512,
    "attention.layer_norm_epsilon": 1e-12,
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
}
HARMLESS = frozenset({
    # Which head another library puts on, how it presents scores, and sizes of heads that are not used here.
    "tie_word_embeddings", "sentence_transformers", "sbert_ce_default_activation_function",
    "directionality", "output_past", "pooler_fc_size",
    "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
})  # fmt: skip

HEADLESS = ("Model", "ForMaskedLM", "ForPreTraining")
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(DecoderConfig):
    """The sizes of an encoder, which has those of a decoder.

    `context_length` is the most tokens of a text, `first_position` the row of the table of positions that a
    text begins with; `function` is that of the MLP. `pad_id` is the padding token where it has no position of
    its own, None where it is like any other. `labels` are the names of the classes by id, none without a
    head; `problem` is one of PROBLEMS.
    """

    function: Function
    first_position: int
    pad_id: int | None
    labels: tuple[str, ...]
    problem: str


def config(s: Settings, w: Weights, *, first_position: int = 0, pad_id: int | None = None) -> EncoderConfig:
    """The configuration behind the keys and defaults that an architecture has stated.

    Args:
        s, w: of the model.
        first_position: as in EncoderConfig.
        pad_id: as in EncoderConfig.
    """
    s.must_equal("position_embedding_type", "absolute")
    s.raw("type_vocab_size")  # only type 0 is used
    hidden_size, n_heads = s.positive("embedding_length"), s.positive("attention.head_count")
    if hidden_size % n_heads:
        raise _core.ModelFileError(
            f"{s.source}: {n_heads} heads do not divide a hidden size of {hidden_size}"
        )
    n_layers = s.positive("block_count", most=_sizes.MAX_LAYERS)
    n_positions = s.positive("context_length", most=MAX_CONTEXT)
    if first_position >= n_positions:
        raise _core.ModelFileError(
            f"{s.source}: a text begins at position {first_position}, the table has {n_positions}"
        )
    labels = _labels(s, w)
    return EncoderConfig(
        architecture=s.architecture,
        vocab_size=s.vocab_size(w.n_rows("token_embd.weight")),
        hidden_size=hidden_size,
        intermediate_size=s.positive("feed_forward_length"),
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=hidden_size // n_heads,
        context_length=n_positions - first_position,
        norm_eps=s.real("attention.layer_norm_epsilon"),
        scale=(hidden_size // n_heads) ** -0.5,
        windows=(0,) * n_layers,
        is_tied=False,
        function=_sizes.function(s, "hidden_act", "gelu"),
        first_position=first_position,
        pad_id=pad_id,
        labels=labels,
        problem=_problem(s, len(labels)),
    )


def _labels(s: Settings, w: Weights) -> tuple[str, ...]:
    """Names of the labels by id; none for a model without a head that classifies."""
    classes = s.raw("architectures")
    name = classes[0] if isinstance(classes, list) and classes and isinstance(classes[0], str) else None
    if name is not None and name.endswith(HEADLESS):
        return ()
    if name is not None and not name.endswith("ForSequenceClassification"):
        raise _core.UnsupportedModelError(
            f"{s.source}: architectures is {name!r:.80}, only ...ForSequenceClassification and "
            f"{', '.join(f'...{end}' for end in HEADLESS)} are supported"
        )
    if name is None and not w.has("cls.output.weight"):
        return ()
    n_labels = w.n_rows("cls.output.weight")
    by_id = s.raw("id2label")
    if by_id is None:
        return tuple(f"LABEL_{i}" for i in range(n_labels))
    found = [by_id.get(str(i)) for i in range(n_labels)] if isinstance(by_id, dict) else []
    labels = [label for label in found if isinstance(label, str)]
    if not isinstance(by_id, dict) or not len(by_id) == len(labels) == len(set(labels)) == n_labels:
        raise _core.ModelFileError(
            f"{s.source}: id2label does not name the {n_labels} labels of the head, '0' to '{n_labels - 1}', "
            "each by another string"
        )
    return tuple(labels)


def _problem(s: Settings, n_labels: int) -> str:
    problem = s.default("problem_type", PROBLEMS[2 if n_labels == 1 else 0])
    if problem not in PROBLEMS:
        raise _core.UnsupportedModelError(
            f"{s.source}: problem_type is {problem!r:.80}, only {', '.join(PROBLEMS)} are supported"
        )
    return problem
