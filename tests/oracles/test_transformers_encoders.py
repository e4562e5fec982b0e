"""Encoders against transformers in float32: tiny random ones, and a real one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

import lanner
from conftest import GOLDEN, model_path
from lanner.checkpoint import open_checkpoint
from lanner.encoder import Encoder
from tiny_bert import TinyEncoder, random_texts, tokenizer_json

pytestmark = pytest.mark.oracle

MAX_RELATIVE_ERROR = 1e-4
"""float32 sums of a few hundred terms, through a few layers; random signs keep them far below this."""

MIN_COSINE = 1 - 1e-6
VOCAB, N_POSITIONS = 211, 120
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 3,
    "num_attention_heads": 6, "max_position_embeddings": N_POSITIONS, "pad_token_id": 0,
}  # fmt: skip
ODD = SIZES | {"hidden_size": 100, "num_attention_heads": 5, "intermediate_size": 53}
DISTIL = {
    "vocab_size": VOCAB, "dim": 100, "hidden_dim": 53, "n_layers": 3, "n_heads": 5,
    "max_position_embeddings": N_POSITIONS, "pad_token_id": 0,
}  # fmt: skip
ROBERTA = {"max_position_embeddings": N_POSITIONS + 2, "pad_token_id": 1}
MODELS = {
    "bert": ("Bert", SIZES),
    "bert odd": ("Bert", ODD | {"hidden_act": "relu", "type_vocab_size": 3, "layer_norm_eps": 1e-5}),
    "bert tanh": ("Bert", SIZES | {"hidden_act": "gelu_new"}),
    "bert silu": ("Bert", SIZES | {"hidden_act": "silu"}),
    "roberta": ("Roberta", SIZES | ROBERTA),
    "roberta odd": (
        "Roberta",
        ODD | ROBERTA | {"pad_token_id": 5, "max_position_embeddings": N_POSITIONS + 6},
    ),
    "xlm-roberta": ("XLMRoberta", SIZES | ROBERTA | {"type_vocab_size": 1}),
    "camembert": ("Camembert", SIZES | ROBERTA | {"type_vocab_size": 1}),
    "distilbert": ("DistilBert", DISTIL),
    "distilbert waves": (
        "DistilBert",
        DISTIL | {"sinusoidal_pos_embds": True, "activation": "relu", "dim": 160, "n_heads": 2},
    ),
}
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification")
LENGTHS = (1, 2, 3, 17, 31, 32, 33, 64, 65, 90, N_POSITIONS)
TEXTS = [np.random.default_rng(n).integers(6, VOCAB, n).tolist() for n in LENGTHS]


@cache
def transformers_model(name: str, head: str) -> Any:
    family, config = MODELS[name]
    torch.manual_seed(0)
    made = getattr(transformers, f"{family}Config")(
        **config, num_labels=5 if head == HEADS[2] else 2, attn_implementation="eager"
    )
    model = getattr(transformers, family + head)(made).float().eval()
    with torch.no_grad():  # untrained norms are all ones, biases zeros: make all of them matter
        for key, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim == 1 else weight.shape[-1] ** -0.5))
            if weight.ndim == 1 and key.endswith("weight"):
                weight.add_(1.0)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("encoders")

    @cache
    def path(name: str, head: str) -> Path:
        folder = root / f"{name} {head}".replace(" ", "_")
        transformers_model(name, head).save_pretrained(folder)
        return folder

    return path


def relative_error(given: np.ndarray, wanted: np.ndarray) -> float:
    assert given.shape == wanted.shape
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


@torch.no_grad()
def wanted_hidden(model: Any, ids: list[int]) -> np.ndarray:
    return getattr(model, "base_model", model)(torch.tensor([ids]))[0][0].numpy()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", MODELS)
def test_hidden_states(name: str, head: str, saved: Any) -> None:
    encoder = Encoder(open_checkpoint(saved(name, head)), n_threads=2)
    assert encoder.context == N_POSITIONS
    seen: list[int] = []

    def compare(i: int, rows: np.ndarray) -> None:
        seen.append(i)
        assert (
            relative_error(rows, wanted_hidden(transformers_model(name, head), TEXTS[i]))
            <= MAX_RELATIVE_ERROR
        )

    encoder.hidden_states(TEXTS, compare)
    assert sorted(seen) == list(range(len(TEXTS)))


@pytest.mark.parametrize("name", MODELS)
def test_class_logits(name: str, saved: Any) -> None:
    model = transformers_model(name, HEADS[2])
    with torch.no_grad():
        wanted = np.concatenate([model(torch.tensor([ids])).logits.numpy() for ids in TEXTS])
    encoder = Encoder(open_checkpoint(saved(name, HEADS[2])), n_threads=2)
    assert encoder.config.labels == tuple(f"LABEL_{i}" for i in range(5))
    assert relative_error(encoder.scores(TEXTS), wanted) <= MAX_RELATIVE_ERROR


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_half_precision_weights(name: str, tmp_path: Path) -> None:
    """Stored in bfloat16 and kept so; the same values in transformers, computed in float32."""
    import copy

    half = copy.deepcopy(transformers_model(name, "Model")).bfloat16()
    half.save_pretrained(tmp_path)
    same = half.float()
    encoder = Encoder(open_checkpoint(tmp_path), n_threads=2)
    assert encoder.formats["bf16"] > 0

    def compare(i: int, rows: np.ndarray) -> None:
        assert relative_error(rows, wanted_hidden(same, TEXTS[i])) <= MAX_RELATIVE_ERROR

    encoder.hidden_states(TEXTS, compare)


@pytest.mark.parametrize(
    "problem", ["single_label_classification", "multi_label_classification", "regression"]
)
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_classify_is_the_pipeline_of_transformers(kind: str, problem: str, tmp_path: Path) -> None:
    """With its tokenizer, its padding and its mask, eight texts at once."""
    tiny = TinyEncoder(kind, n_labels=4, changes={"problem_type": problem})
    folder = tiny.write(tmp_path / "model")
    (folder / "tokenizer.json").write_text(
        json.dumps(tokenizer_json(tiny) | {"padding": None, "truncation": None})
    )
    pad = tiny.config()["pad_token_id"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token=tiny.vocabulary[pad],
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).float().eval()
    pipeline = transformers.pipeline(
        "text-classification", model=model, tokenizer=tokenizer, top_k=None, device="cpu"
    )
    texts = random_texts(8, 70)
    wanted = [{each["label"]: each["score"] for each in result} for result in pipeline(texts, batch_size=8)]
    with lanner.load(folder) as m:
        for given, scores in zip(m.classify(texts), wanted, strict=True):
            assert set(given.scores) == set(scores)
            for label, score in given.scores.items():
                assert score == pytest.approx(scores[label], rel=1e-4, abs=1e-6)


# --- minilm -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def minilm_path() -> Path:
    return model_path("minilm")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_minilm_gives_the_mean_pooled_output_of_transformers(minilm_path: Path) -> None:
    """Fifty sentences of 2 to 402 tokens, padded into one batch there and by themselves here."""
    sentences = json.loads((GOLDEN / "sentences.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_path)
    model = transformers.AutoModel.from_pretrained(minilm_path, attn_implementation="eager").float().eval()
    encoded = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = model(**encoded)[0]
    mask = encoded["attention_mask"].unsqueeze(-1)
    wanted = ((rows * mask).sum(1) / mask.sum(1)).numpy()
    with lanner.load(minilm_path) as m:
        given = m.embed(sentences, pooling="mean", normalise=False)
        ours = m.embed(sentences)
    assert len(sentences) == 50
    assert relative_error(given, wanted) <= MAX_RELATIVE_ERROR
    assert cosines(given, wanted).min() >= MIN_COSINE
    unit = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert relative_error(ours, unit) <= MAX_RELATIVE_ERROR
