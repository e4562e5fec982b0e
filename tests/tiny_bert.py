"""Small random encoders as Hugging Face folders, and what they compute, in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tiny_folder import write_folder

EPS = 1e-12
SPECIAL = {
    "bert": ("[CLS]", "[SEP]", "[PAD]"),
    "roberta": ("<s>", "</s>", "<pad>"),
    "distilbert": ("[CLS]", "[SEP]", "[PAD]"),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FUNCTIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@dataclass(frozen=True)
class TinyEncoder:
    """One model; no width is a multiple of 16."""

    kind: str = "bert"
    hidden: int = 60
    n_heads: int = 3
    ffn: int = 52
    n_layers: int = 2
    n_positions: int = 80  # of a text
    function: str = "gelu"
    n_labels: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)  # of config.json

    @property
    def vocabulary(self) -> list[str]:
        """Words of one letter and their continuations; the padding token is 1 in RoBERTa, else 0."""
        cls, sep, pad = SPECIAL[self.kind]
        head = [cls, pad, sep, "[UNK]"] if self.kind == "roberta" else [pad, "[UNK]", cls, sep]
        return [*head, *LETTERS, *(f"##{letter}" for letter in LETTERS)]

    @property
    def first_position(self) -> int:
        return 2 if self.kind == "roberta" else 0

    def config(self) -> dict[str, Any]:
        """config.json, with what transformers writes besides."""
        sizes = (len(self.vocabulary), self.hidden, self.n_layers, self.n_heads, self.ffn, self.function)
        names = (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "hidden_act",
        )
        if self.kind == "distilbert":
            names = ("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim", "activation")
        family = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}[self.kind]
        head = "ForSequenceClassification" if self.n_labels else "Model"
        config = dict(zip(names, sizes, strict=True)) | {
            "architectures": [family + head], "model_type": self.kind, "transformers_version": "4.50.0",
            "max_position_embeddings": self.n_positions + self.first_position, "initializer_range": 0.02,
            "pad_token_id": self.vocabulary.index(SPECIAL[self.kind][2]), "use_cache": True,
        }  # fmt: skip
        if self.kind != "distilbert":
            config |= {"type_vocab_size": 2, "layer_norm_eps": EPS, "position_embedding_type": "absolute"}
        if self.n_labels:
            config["id2label"] = {str(i): f"label {i}" for i in range(self.n_labels)}
        return config | dict(self.changes)

    # --- weights --------------------------------------------------------------------------------------------
    def tensors(self) -> dict[str, np.ndarray]:
        """float32 by the names of a folder, without the prefix of a class with a head."""
        rng = np.random.default_rng(5)
        h, f = self.hidden, self.ffn
        out: dict[str, np.ndarray] = {}

        def matrix(name: str, *shape: int) -> None:
            out[f"{name}.weight"] = rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)

        def linear(name: str, n: int, k: int) -> None:
            matrix(name, n, k)
            out[f"{name}.bias"] = rng.normal(0, 0.3, n).astype(np.float32)

        def norm(name: str) -> None:
            out[f"{name}.weight"] = rng.normal(1, 0.3, h).astype(np.float32)
            out[f"{name}.bias"] = rng.normal(0, 0.3, h).astype(np.float32)

        matrix("embeddings.word_embeddings", len(self.vocabulary), h)
        matrix("embeddings.position_embeddings", self.n_positions + self.first_position, h)
        if self.kind != "distilbert":
            matrix("embeddings.token_type_embeddings", 2, h)
        norm("embeddings.LayerNorm")
        for i in range(self.n_layers):
            q, k, v, o, norm1, up, down, norm2 = (
                name.format(i) for name in LAYER_NAMES[self.kind == "distilbert"]
            )
            for name in (q, k, v, o):
                linear(name, h, h)
            norm(norm1)
            linear(up, f, h)
            linear(down, h, f)
            norm(norm2)
        if self.n_labels:
            hidden, labels = HEAD_NAMES[self.kind]
            linear(hidden, h, h)
            linear(labels, self.n_labels, h)
        return out

    def stored(self) -> dict[str, np.ndarray]:
        """With the prefix of a class with a head."""
        if not self.n_labels:
            return self.tensors()
        outside = ("classifier", "pre_classifier")
        return {
            name if name.startswith(outside) else f"{self.kind}.{name}": value
            for name, value in self.tensors().items()
        }

    def write(self, folder: Path) -> Path:
        """The folder, with its tokenizer."""
        write_folder(folder, self.config(), {
            name: ("F32", value.shape, value.tobytes()) for name, value in self.stored().items()
        })  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(self)))
        return folder

    # --- what it computes -----------------------------------------------------------------------------------
    def hidden_states(self, ids: Sequence[int]) -> np.ndarray:
        """(len(ids), hidden) float64."""
        t = {name: value.astype(np.float64) for name, value in self.tensors().items()}
        n, dim = len(ids), self.hidden // self.n_heads

        def linear(x: np.ndarray, name: str) -> np.ndarray:
            return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

        def norm(x: np.ndarray, name: str) -> np.ndarray:
            x = x - x.mean(axis=-1, keepdims=True)
            x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS)
            return x * t[f"{name}.weight"] + t[f"{name}.bias"]

        first = self.first_position
        x = t["embeddings.word_embeddings.weight"][list(ids)]
        x = x + t["embeddings.position_embeddings.weight"][first : first + n]
        if self.kind != "distilbert":
            x = x + t["embeddings.token_type_embeddings.weight"][0]
        x = norm(x, "embeddings.LayerNorm")
        for i in range(self.n_layers):
            q, k, v, o, norm1, up, down, norm2 = (
                name.format(i) for name in LAYER_NAMES[self.kind == "distilbert"]
            )
            heads = [linear(x, name).reshape(n, self.n_heads, dim).swapaxes(0, 1) for name in (q, k, v)]
            scores = heads[0] @ heads[1].swapaxes(1, 2) / math.sqrt(dim)
            p = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed = (p / p.sum(axis=-1, keepdims=True)) @ heads[2]
            x = norm(x + linear(mixed.swapaxes(0, 1).reshape(n, -1), o), norm1)
            x = norm(x + linear(FUNCTIONS[self.function](linear(x, up)), down), norm2)
        return x

    def scores(self, ids: Sequence[int]) -> np.ndarray:
        """(n_labels,) float64."""
        t = {name: value.astype(np.float64) for name, value in self.tensors().items()}
        hidden, labels = HEAD_NAMES[self.kind]
        h = t[f"{hidden}.weight"] @ self.hidden_states(ids)[0] + t[f"{hidden}.bias"]
        h = np.maximum(h, 0) if self.kind == "distilbert" else np.tanh(h)
        return t[f"{labels}.weight"] @ h + t[f"{labels}.bias"]


_BERT, _DISTIL = "encoder.layer.{}.", "transformer.layer.{}."
LAYER_NAMES = (
    tuple(_BERT + name for name in (
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")),
    tuple(_DISTIL + name for name in (
        "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm",
        "ffn.lin1", "ffn.lin2", "output_layer_norm")),
)  # fmt: skip
HEAD_NAMES = {
    "bert": ("pooler.dense", "classifier"), "roberta": ("classifier.dense", "classifier.out_proj"),
    "distilbert": ("pre_classifier", "classifier"),
}  # fmt: skip


def tokenizer_json(tiny: TinyEncoder) -> dict[str, Any]:
    """Letters as tokens between two special tokens, as `tokenizers` writes it; it pads and truncates."""
    cls, sep, pad = SPECIAL[tiny.kind]
    vocab = {token: i for i, token in enumerate(tiny.vocabulary)}

    def special(token: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": 0}}

    def sequence(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    return {
        "version": "1.0",
        "truncation": {"max_length": 16, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": vocab[pad],
            "pad_type_id": 0, "pad_token": pad,
        },
        "added_tokens": [
            {"id": vocab[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for token in (cls, sep, pad)
        ],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special(cls), sequence("A"), special(sep)],
            "pair": [special(cls), sequence("A"), special(sep), sequence("B")],
            "special_tokens": {
                token: {"id": token, "ids": [vocab[token]], "tokens": [token]} for token in (cls, sep)
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    }  # fmt: skip


def ids_of(tiny: TinyEncoder, text: str) -> list[int]:
    """Ids of a text of small letters and spaces."""
    vocab = {token: i for i, token in enumerate(tiny.vocabulary)}
    cls, sep, _ = SPECIAL[tiny.kind]
    pieces = [letter if i == 0 else f"##{letter}" for word in text.split() for i, letter in enumerate(word)]
    return [vocab[cls], *(vocab[piece] for piece in pieces), vocab[sep]]


def random_texts(n: int, longest: int, seed: int = 0) -> list[str]:
    """Texts of 0 to `longest` letters, in words of a few; the first is the longest, the second empty."""
    rng = np.random.default_rng(seed)
    lengths = [longest, 0, *rng.integers(1, longest, n - 2)]
    texts = []
    for length in lengths:
        letters = "".join(rng.choice(list(LETTERS), int(length)))
        texts.append(" ".join(letters[i : i + 5] for i in range(0, len(letters), 5)))
    return texts


MODELS = {
    "bert": TinyEncoder(),
    "blocks": TinyEncoder(hidden=96, n_heads=2, ffn=160, function="gelu_new"),
    "roberta": TinyEncoder("roberta", function="relu"),
    "distilbert": TinyEncoder("distilbert"),
}
CLASSIFIERS = {
    **{f"{kind} labels": replace(MODELS[kind], n_labels=3) for kind in ("bert", "roberta", "distilbert")},
    "many right": replace(MODELS["bert"], n_labels=4, changes={"problem_type": "multi_label_classification"}),
    "number": replace(MODELS["bert"], n_labels=1),
}
