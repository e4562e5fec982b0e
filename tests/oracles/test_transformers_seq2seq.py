"""Tiny random encoder-decoders against transformers in float32: encoder, logits, and greedy targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import folders
import lanner
from lanner.checkpoint import open_checkpoint
from lanner.models.marian import sinusoids
from lanner.models.t5 import relative_buckets
from lanner.seq2seq import Seq2Seq
from lanner.translation import Translator
from targets import IdTokenizer, Target, target_logits

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

# float32 sums of a few hundred terms, through two times two layers; random signs keep them far below this.
MAX_RELATIVE_ERROR = 1e-4
VOCAB, N_TARGET = 211, 24
T5 = {
    "vocab_size": VOCAB, "d_model": 96, "d_kv": 20, "d_ff": 176, "num_layers": 2, "num_heads": 3,
    "relative_attention_num_buckets": 12, "relative_attention_max_distance": 20, "decoder_start_token_id": 0,
}  # fmt: skip
ODD_T5 = T5 | {"d_model": 100, "d_kv": 7, "d_ff": 53, "num_heads": 5, "num_decoder_layers": 3}
MARIAN = {
    "vocab_size": VOCAB, "d_model": 96, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 6, "decoder_attention_heads": 6, "encoder_ffn_dim": 176,
    "decoder_ffn_dim": 160, "max_position_embeddings": 128,
    "decoder_start_token_id": 210, "pad_token_id": 210, "eos_token_id": 0, "forced_eos_token_id": 0,
}  # fmt: skip
ODD_MARIAN = MARIAN | {"d_model": 75, "encoder_attention_heads": 5, "decoder_attention_heads": 5,
                       "encoder_ffn_dim": 53, "decoder_ffn_dim": 52, "decoder_layers": 1}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """`head`: whether the head gets values of its own; `generation` goes into its generation_config.json."""

    kind: str
    config: dict[str, Any]
    head: bool = False
    generation: dict[str, Any] = field(default_factory=dict)


MODELS = {
    "t5": Tiny("T5", T5),
    "t5 long reach": Tiny("T5", T5 | {
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
    "t5 v1.1": Tiny("T5", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, head=True),
    "t5 odd": Tiny("T5", ODD_T5 | {"feed_forward_proj": "gated-silu"}),
    "t5 gelu": Tiny("T5", ODD_T5 | {"feed_forward_proj": "gelu"}, generation={"suppress_tokens": [3, 7, 50]}),
    "mt5": Tiny("MT5", T5, head=True),
    "umt5": Tiny("UMT5", ODD_T5),
    "marian": Tiny("Marian", MARIAN | {"activation_function": "swish", "scale_embedding": True},
                   generation={"bad_words_ids": [[210]]}),
    "marian relu": Tiny("Marian", ODD_MARIAN | {"activation_function": "relu"},
                        generation={"forced_eos_token_id": None}),
    "marian apart": Tiny("Marian", ODD_MARIAN | {
        "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 230}),
    "marian own head": Tiny("Marian", MARIAN | {
        "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 230, "tie_word_embeddings": False},
        head=True),
}  # fmt: skip

RNG = np.random.default_rng(2)
SOURCES = [RNG.integers(1, VOCAB, n).tolist() for n in (1, 70, 33, 7, 32, 2, 101)]


def randomized(
    kind: str, config: dict[str, Any], generation: dict[str, Any] | None = None, head: bool = False
) -> Any:
    """The model, float32, with weights that all matter."""
    torch.manual_seed(0)
    name = f"{kind}MTModel" if kind == "Marian" else f"{kind}ForConditionalGeneration"
    made = getattr(transformers, f"{kind}Config")(**config, attn_implementation="eager")
    model = getattr(transformers, name)(made).float().eval()
    if head:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "embed_positions" in key:
                continue
            is_table = "attention_bias" in key
            spread = 1.0 if is_table else 0.3 if weight.ndim == 1 else 1.5 * weight.shape[-1] ** -0.5
            # Else T5's tied head would find in every row the token that it began with, and Marian's attention
            # would give every row about the same mean.
            if kind != "Marian" and key == "shared.weight":
                spread *= 0.1
            if kind == "Marian":
                spread *= 0.3 if weight.ndim == 1 else 2.0 if "q_proj" in key or "k_proj" in key else 1.0
            weight.copy_(torch.randn_like(weight) * spread)
            if weight.ndim == 1 and key.endswith("weight"):
                weight.add_(1.0)
        if kind == "Marian":
            model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias) * 0.1)
    for key, value in (generation or {}).items():
        setattr(model.generation_config, key, value)
    return model


@cache
def transformers_model(name: str) -> Any:
    """One of MODELS, with an end that targets come to."""
    tiny = MODELS[name]
    model = randomized(tiny.kind, tiny.config, tiny.generation, tiny.head)
    model.generation_config.eos_token_id = None
    free = wanted_ids(model, SOURCES[1])[:-1]
    # The id that comes last for the first time.
    model.generation_config.eos_token_id = max(free, key=free.index)
    return model


def wanted_ids(model: Any, source: list[int], n: int = N_TARGET) -> list[int]:
    """Greedy, behind the start token. Without a cache, which transformers sizes by the encoder's layers."""
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([source]), max_new_tokens=n, num_beams=1, do_sample=False, use_cache=False
        )
    return ids[0, 1:].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("seq2seq")

    @cache
    def path(name: str) -> Path:
        transformers_model(name).save_pretrained(root / name)
        return root / name

    return path


def open_model(path: Path, n_threads: int = 2) -> Seq2Seq:
    return Seq2Seq(open_checkpoint(path), n_threads=n_threads, kv_dtype="f32")


def relative_error(given: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_and_logits(name: str, folder: Any) -> None:
    model, other = open_model(folder(name)), transformers_model(name)
    start = other.generation_config.decoder_start_token_id
    target = [start, *RNG.integers(0, VOCAB, 50).tolist()]
    allowed = np.ones(model.config.vocab_size, bool)
    allowed[list(model.rules.forbidden_ids)] = False
    for source in SOURCES:
        with torch.no_grad():
            wanted = other(torch.tensor([source]), decoder_input_ids=torch.tensor([target]), use_cache=False)
        given = target_logits(model, [Target(source)], [target])[0]
        hidden = wanted.encoder_last_hidden_state[0].numpy()
        assert relative_error(model.hidden(len(source)), hidden) <= MAX_RELATIVE_ERROR
        assert relative_error(given[:, allowed], wanted.logits[0].numpy()[:, allowed]) <= MAX_RELATIVE_ERROR
        assert np.all(given[:, ~allowed] == -np.inf)
        forbidden = model.forbidden_logits(len(target))
        assert (forbidden is None) == allowed.all()
        if forbidden is not None:
            assert relative_error(forbidden, wanted.logits[0].numpy()[:, ~allowed]) <= MAX_RELATIVE_ERROR


@pytest.mark.parametrize("name", MODELS)
def test_logits_do_not_depend_on_the_batch_or_the_steps(name: str, folder: Any) -> None:
    model = open_model(folder(name))
    ids = [RNG.integers(0, VOCAB, 6).tolist() for _ in SOURCES]
    alone = [
        target_logits(model, [Target(source)], [part])[0] for source, part in zip(SOURCES, ids, strict=True)
    ]
    targets = [Target(source) for source in SOURCES]
    for given, wanted in zip(target_logits(model, targets, ids), alone, strict=True):
        assert np.array_equal(given, wanted)
    targets = [Target(source) for source in SOURCES]
    for i in range(6):
        rows = target_logits(model, targets, [part[i : i + 1] for part in ids], start=i, finish=False)
        assert all(np.array_equal(row[0], wanted[i]) for row, wanted in zip(rows, alone, strict=True))
    single = open_model(folder(name), n_threads=1)
    for source, part, wanted in zip(SOURCES, ids, alone, strict=True):
        assert np.array_equal(target_logits(single, [Target(source)], [part])[0], wanted)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_targets(name: str, folder: Any) -> None:
    wanted = [wanted_ids(transformers_model(name), source) for source in SOURCES]
    assert len(wanted[1]) < N_TARGET and len({len(ids) for ids in wanted}) > 1  # the end was chosen so
    with Translator(open_model(folder(name)), IdTokenizer()) as m:
        results = m.generate(SOURCES * 3, max_tokens=N_TARGET)  # more than fit into one step
        assert [result.tokens for result in results] == wanted * 3
        for source, ids, result in zip(SOURCES, wanted, results[: len(SOURCES)], strict=True):
            assert m.generate(source, max_tokens=N_TARGET).tokens == ids
            assert result.usage.prompt_tokens == len(source)
            assert result.finish_reason == ("length" if len(ids) == N_TARGET else "stop")


@pytest.mark.parametrize(
    ("n_buckets", "max_distance"), [(32, 128), (32, 64), (12, 20), (8, 33), (20, 1000), (4, 3)]
)
@pytest.mark.parametrize("both_sides", [True, False])
def test_relative_buckets(n_buckets: int, max_distance: int, both_sides: bool) -> None:
    bucket = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    reach = 3 * max_distance
    wanted = bucket(torch.arange(-reach, reach + 1), both_sides, n_buckets, max_distance).tolist()
    given = relative_buckets(n_buckets, max_distance, both_sides=both_sides)
    clamped = [
        given[min(max(d, -max_distance), max_distance) + max_distance] for d in range(-reach, reach + 1)
    ]
    assert clamped == wanted


@pytest.mark.parametrize("n_cols", [2, 5, 64, 75])
def test_sinusoids(n_cols: int) -> None:
    embedding = transformers.models.marian.modeling_marian.MarianSinusoidalPositionalEmbedding(200, n_cols)
    wanted = embedding.create_weight().numpy()
    given = np.asarray(sinusoids(200, n_cols))
    # Sines of angles up to 200, of which powers in float64 may differ in the last bit.
    assert np.abs(given - wanted).max() <= 200 * 2**-50 + 2**-24


# --- with a tokenizer ---------------------------------------------------------------------------------------
TEXTS = ["hello the hello", "the", "hello  world é the", ">>fra<<hello the the the the the hello"]


def marian_with_tokenizer(folder: Path) -> tuple[Any, Any]:
    folders.marian_folder(folder)
    n = len(folders.MARIAN)
    config = MARIAN | {
        "vocab_size": n,
        "decoder_start_token_id": n - 1,
        "pad_token_id": n - 1,
        "scale_embedding": True,
    }
    model = randomized("Marian", config, generation={"bad_words_ids": [[n - 1]]})
    return model, transformers.MarianTokenizer.from_pretrained(folder)


def t5_with_tokenizer(folder: Path) -> tuple[Any, Any]:
    folders.t5_folder(folder, tokenizer_config={"extra_ids": 4, "tokenizer_class": "T5Tokenizer"})
    model = randomized("T5", T5 | {"vocab_size": len(folders.PIECES) + 4})
    return model, transformers.T5Tokenizer.from_pretrained(folder, extra_ids=4)


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("make", [marian_with_tokenizer, t5_with_tokenizer])
def test_translations_of_texts(make: Any, tmp_path: Path) -> None:
    model, tokenizer = make(tmp_path)
    model.save_pretrained(tmp_path)
    wanted = []
    for text in TEXTS:
        ids = tokenizer([text], return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=N_TARGET, num_beams=1, do_sample=False)
        wanted.append(tokenizer.decode(made[0], skip_special_tokens=True))
    assert len(set(wanted)) > 1
    with lanner.load(tmp_path, kv_dtype="f32", threads=2) as m:
        given = m.translate(TEXTS, max_tokens=N_TARGET)
        assert [text.strip() for text in given] == wanted  # the tokenizers of transformers strip
        assert [m.translate(text, max_tokens=N_TARGET) for text in TEXTS] == given
        assert [str(each) for each in m.generate(TEXTS, max_tokens=N_TARGET)] == given
