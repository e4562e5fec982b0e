"""Folders of encoders: what their files ask for, and what is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lanner
from tiny_bert import CLASSIFIERS, MODELS, TinyEncoder, random_texts
from tiny_folder import safetensors_bytes

pytest.importorskip("tokenizers")
TEXTS = random_texts(9, 70)


# --- the files of sentence-transformers ---------------------------------------------------------------------
def modules(folder: Path, *kinds: str, **pooling: bool) -> None:
    """modules.json and the configuration of its Pooling module."""
    entries = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(("Transformer", *kinds))
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    for entry in entries[1:]:
        (folder / entry["path"]).mkdir(exist_ok=True)
        (folder / entry["path"] / "config.json").write_text(json.dumps(pooling))


def test_modules_json_says_what_embed_does(tmp_path: Path) -> None:
    folder = MODELS["bert"].write(tmp_path)
    modules(folder, "Pooling", "Normalize", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    with lanner.load(folder) as m:
        np.testing.assert_array_equal(m.embed(TEXTS[:3]), m.embed(TEXTS[:3], pooling="cls", normalise=True))
        assert not np.array_equal(m.embed(TEXTS[:3]), m.embed(TEXTS[:3], normalise=False))
        assert not np.array_equal(m.embed(TEXTS[:3]), m.embed(TEXTS[:3], pooling="mean"))


@pytest.mark.parametrize(
    ("kinds", "pooling", "named"),
    [
        (("Pooling",), {"pooling_mode_max_tokens": True}, "1_Pooling: max_tokens"),
        (("Pooling",), {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, r"mean\+cls"),
        (("Pooling",), {}, "1_Pooling: none"),
        (("Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "a Dense module"),
    ],
    ids=["max", "two", "none", "dense"],
)
def test_poolings_that_are_not_known_are_refused_by_name(kinds, pooling, named: str, tmp_path: Path) -> None:
    folder = MODELS["bert"].write(tmp_path)
    modules(folder, *kinds, **pooling)
    with lanner.load(folder) as m:
        with pytest.raises(lanner.UnsupportedModelError, match=named):
            m.embed("a")
        assert m.embed("a", pooling="mean").shape == (60,)


@pytest.mark.parametrize(
    "text",
    ["{", "{}", "[1]", '[{"type": "a.Pooling", "path": ".."}]', '[{"type": "a.Pooling", "path": "/etc"}]',
     '[{"type": "a.Pooling", "path": "nowhere"}]', '[{"type": 1, "path": ""}]',
     '[{"type": "a.Pooling", "path": "\\u0000"}]', "[" * 100_000],
)  # fmt: skip
def test_a_broken_modules_json(text: str, tmp_path: Path) -> None:
    folder = MODELS["bert"].write(tmp_path)
    (folder / "modules.json").write_text(text)
    with pytest.raises(lanner.ModelFileError, match=r"modules\.json"):
        lanner.load(folder)


def test_what_sentence_transformers_does_before_the_tokenizer(tmp_path: Path) -> None:
    folder = MODELS["bert"].write(tmp_path)
    modules(folder, "Pooling", pooling_mode_mean_tokens=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": None}))
    with lanner.load(folder) as m:
        capitals, small = m.embed("ABC"), m.embed("abc")
        assert not np.array_equal(capitals, small)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8, "do_lower_case": true}')
    with lanner.load(folder) as m:
        np.testing.assert_array_equal(m.embed("ABC"), small)
    (folder / "config_sentence_transformers.json").write_text('{"default_prompt_name": null}')
    lanner.load(folder).embed("a")
    (folder / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}')
    with lanner.load(folder) as m, pytest.raises(lanner.UnsupportedModelError, match="the prompt 'query'"):
        m.embed("a")
    (folder / "sentence_bert_config.json").write_text("[]")
    with pytest.raises(lanner.ModelFileError, match=r"sentence_bert_config\.json: is no object"):
        lanner.load(folder)


# --- config.json --------------------------------------------------------------------------------------------
def test_labels_without_names_are_numbered(tmp_path: Path) -> None:
    tiny = replace(CLASSIFIERS["bert labels"], changes={"id2label": None})
    with lanner.load(tiny.write(tmp_path)) as m:
        assert m.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("bert", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
        ("distilbert", {"activation": "mish"}, "activation is 'mish'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        (
            "bert",
            {"architectures": ["BertForTokenClassification"]},
            "architectures is 'BertForTokenClassification'",
        ),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"problem_type": "ranking"}, "problem_type is 'ranking'"),
        ("bert", {"use_rotary": True}, "use_rotary is not known"),
        ("bert", {"model_type": "modernbert"}, "architecture 'modernbert' is not supported"),
    ],
)
def test_what_is_not_supported_is_named(
    kind: str, changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    tiny = replace(CLASSIFIERS[f"{kind} labels"], changes=changes)
    with pytest.raises(lanner.UnsupportedModelError, match=named):
        lanner.load(tiny.write(tmp_path))


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("bert", {"num_attention_heads": 7}, "7 heads do not divide a hidden size of 60"),
        ("bert", {"max_position_embeddings": 79}, r"shape \(80, 60\), the configuration wants \(79, 60\)"),
        ("bert", {"hidden_size": None}, "'hidden_size' is missing"),
        ("bert", {"layer_norm_eps": -1.0}, "layer_norm_eps"),
        ("bert", {"id2label": {"0": "a", "1": "b"}}, "id2label"),
        ("bert", {"id2label": {"0": "a", "1": "b", "2": "a"}}, "id2label"),
        ("bert", {"id2label": ["a", "b", "c"]}, "id2label"),
        ("bert", {"id2label": {"0": ["a"], "1": "b", "2": "c"}}, "id2label"),
        ("roberta", {"pad_token_id": 90}, "begins at position 91"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id is -1"),
    ],
)
def test_contradictions_are_named(kind: str, changes: dict[str, object], named: str, tmp_path: Path) -> None:
    tiny = replace(CLASSIFIERS[f"{kind} labels"], changes=changes)
    with pytest.raises(lanner.ModelFileError, match=named):
        lanner.load(tiny.write(tmp_path))


# --- weights ------------------------------------------------------------------------------------------------
def written(tiny: TinyEncoder, folder: Path, **changed: np.ndarray | None) -> Path:
    """The folder of a model, some of its tensors replaced, or left out where they are None."""
    tiny.write(folder)
    tensors = {name: value for name, value in (tiny.stored() | changed).items() if value is not None}
    stored = {name: ("F32", value.shape, value.tobytes()) for name, value in tensors.items()}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
    return folder


def test_norms_may_be_called_gamma_and_beta(tmp_path: Path) -> None:
    """As the first folders of BERT have them; with the heads of its training besides, which nothing needs."""
    tiny = MODELS["bert"]
    old = {name: value for name, value in tiny.tensors().items() if "LayerNorm" in name}
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in old.items()
    }
    heads = {"cls.predictions.bias": np.zeros(5, np.float32), "pooler.dense.bias": np.zeros(60, np.float32)}
    path = written(tiny, tmp_path / "old", **dict.fromkeys(old), **renamed, **heads)
    with lanner.load(path) as m, lanner.load(tiny.write(tmp_path / "new")) as new:
        np.testing.assert_array_equal(m.embed(TEXTS[:9]), new.embed(TEXTS[:9]))


BAD = {
    "missing": ("encoder.layer.1.output.dense.bias", None, "is missing"),
    "NaN in a norm": ("encoder.layer.1.output.LayerNorm.weight", np.full(60, np.nan, np.float32), "NaN"),
    "infinite positions": (
        "embeddings.position_embeddings.weight",
        np.full((80, 60), np.inf, np.float32),
        "NaN",
    ),
    "wrong shape": (
        "encoder.layer.0.attention.self.key.weight",
        np.zeros((60, 59), np.float32),
        r"\(60, 59\)",
    ),
    "long bias": ("encoder.layer.0.attention.self.key.bias", np.zeros(61, np.float32), r"\(61,\)"),
    "few words": ("embeddings.word_embeddings.weight", np.zeros((9, 60), np.float32), "vocabulary"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_weights_are_named(bad: str, tmp_path: Path) -> None:
    name, value, wrong = BAD[bad]
    with pytest.raises(lanner.ModelFileError, match=wrong) as caught:
        lanner.load(written(MODELS["bert"], tmp_path, **{name: value}))
    assert bad == "few words" or name in str(caught.value)


def test_further_tensors_are_refused(tmp_path: Path) -> None:
    path = written(
        MODELS["bert"], tmp_path, **{"encoder.layer.2.output.dense.bias": np.zeros(60, np.float32)}
    )
    with pytest.raises(lanner.UnsupportedModelError, match=r"encoder\.layer\.2\.output\.dense\.bias"):
        lanner.load(path)
