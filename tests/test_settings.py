"""Settings of config.json under the keys of GGUF."""

from __future__ import annotations

from typing import Any

import pytest

from lanner._core import ModelFileError, UnsupportedModelError
from lanner.config import Settings
from lanner.hf_config import HfValues
from lanner.models._rope import read_rope


def settings(**config: Any) -> Settings:
    return Settings("config.json", "toy", HfValues(config))


def test_keys_are_translated_and_typed() -> None:
    s = settings(hidden_size=96, rms_norm_eps=1, logit_scale=2.5, names=["a"], hidden_act="silu", n_head=6)
    s.use({"attention.head_count": "n_head", "attention.key_length": None}, {})
    assert s.positive("embedding_length") == 96 and s.positive("attention.head_count") == 6
    assert s.real("attention.layer_norm_rms_epsilon") == 1.0  # JSON writes 1.0 as 1
    assert s.default("logit_scale", 0.0) == 2.5 and s.required("hidden_act", str) == "silu"
    assert s.raw("names") == ["a"] and s.raw("absent") is None and s.default("absent", 3) == 3
    assert not s.is_gguf and not s.has("attention.key_length") and s.has("embedding_length")
    s.finish()
    with pytest.raises(ModelFileError, match=r"^config\.json: key 'num_hidden_layers' is missing$"):
        s.required("block_count", int)
    with pytest.raises(ModelFileError, match=r"^config\.json: hidden_size is a int, wanted a str$"):
        s.required("embedding_length", str)
    with pytest.raises(ModelFileError, match="hidden_size is 96, wanted 1 to 95"):
        s.positive("embedding_length", most=95)
    with pytest.raises(UnsupportedModelError, match="hidden_act is 'silu', only 'gelu' is supported"):
        s.must_equal("hidden_act", "gelu")
    with pytest.raises(UnsupportedModelError, match="names is an array, only 1 is supported"):
        s.must_equal("names", 1)


def test_defaults_are_those_of_the_architecture() -> None:
    s = settings(sliding_window=None)
    s.use(
        {},
        {"context_length": 2048, "tie_word_embeddings": True, "hidden_act": "gelu", "sliding_window": 4096},
    )
    assert s.positive("context_length", 7) == 2048 and s.raw("context_length") == 2048
    assert s.default("tie_word_embeddings", False) is True
    assert s.default("sliding_window", 0) == 0  # null says that there is none
    with pytest.raises(UnsupportedModelError, match="hidden_act is 'gelu', only 'silu'"):
        s.must_equal("hidden_act", "silu")  # what the file means, though it does not say so


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}},
        {"rotary_emb_base": 5e5},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "default", "type": "default"}},
    ],
)
def test_rope_of_every_version(config: dict[str, Any]) -> None:
    s = settings(max_position_embeddings=64, **config)
    assert read_rope(s, None, 4).inv_freq.tolist() == [1.0, 5e5**-0.5]
    s.finish()


def test_an_object_is_read_whole_or_name_by_name() -> None:
    rope = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5, "low_freq_factor": 1.0, "null": None}
    s = settings(rope_parameters=rope)
    assert s.required("rope_parameters.rope_type", str) == "llama3"
    assert s.real("rope_parameters.rope_theta") == 5e5
    with pytest.raises(
        UnsupportedModelError, match=r"rope_parameters\.factor is not known, its effect would be"
    ):
        s.finish()
    assert s.real("rope_parameters.factor") == 8.0
    with pytest.raises(UnsupportedModelError, match=r"rope_parameters\.low_freq_factor is not known"):
        s.finish()
    assert s.raw("rope_parameters") == rope
    s.finish()


def test_looking_is_not_reading() -> None:
    s = settings(logit_scale=1.0)
    assert s.has("logit_scale")
    with pytest.raises(UnsupportedModelError, match="logit_scale is not known"):
        s.finish()
    s.use({}, {}, ignored=frozenset({"logit_scale"}))
    s.finish()


@pytest.mark.parametrize(
    ("name", "harmless", "harmful"),
    [("is_encoder_decoder", False, True), ("pruned_heads", {}, {"0": [1]}), ("rope_interleaved", False, True),
     ("add_cross_attention", False, True), ("decoder_start_token_id", None, 0)],
)  # fmt: skip
def test_names_that_are_harmless_at_a_value(name: str, harmless: object, harmful: object) -> None:
    settings(**{name: harmless}).finish()
    with pytest.raises(UnsupportedModelError, match=f"{name} is not known"):
        settings(**{name: harmful}).finish()


def test_two_names_that_differ() -> None:
    s = settings(rope_theta=1e4, rope_parameters={"rope_theta": 1e5})
    with pytest.raises(ModelFileError, match=r"rope_theta of the rope is 10000\.0, and 100000\.0 in rope"):
        read_rope(s, None, 4)
    s = settings(norm_epsilon=1e-5, layer_norm_epsilon=1e-6)
    s.use({"attention.layer_norm_epsilon": ("norm_epsilon", "layer_norm_epsilon")}, {})
    with pytest.raises(ModelFileError, match="norm_epsilon is 1e-05, layer_norm_epsilon is 1e-06"):
        s.real("attention.layer_norm_epsilon")
