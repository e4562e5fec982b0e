"""Folders that are no model, or ask for what is not computed: each is refused by name and crashes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny_folder import Stored, folder_contents, safetensors_bytes, write_folder
from tiny_llama import MODELS, VOCAB

FILE, UNSUPPORTED = "ModelFileError", "UnsupportedModelError"
CONFIG, TENSORS = folder_contents(MODELS["heads_of_20"])
NORM, DOWN, Q = (
    f"model.layers.1.{name}.weight" for name in ("input_layernorm", "mlp.down_proj", "self_attn.q_proj")
)
L2 = "model.layers.2.input_layernorm.weight"
SHARDS = [f"model-{i + 1:05d}-of-00002.safetensors" for i in range(2)]
HOME = list(TENSORS).index(NORM) % 2  # tensors lie in the shards in turn
OWN, OTHER = SHARDS[HOME], SHARDS[1 - HOME]
INDEX = "model.safetensors.index.json"

Change = Callable[[Path], None]


def config(**values: Any) -> Change:
    """Other values in config.json; ... removes one."""

    def change(folder: Path) -> None:
        given = {k: v for k, v in (CONFIG | values).items() if v is not ...}
        (folder / "config.json").write_text(json.dumps(given))

    return change


def rope(**scaling: object) -> Change:
    return config(rope_scaling=scaling)


def config_text(text: bytes) -> Change:
    return lambda folder: (folder / "config.json").write_bytes(text) and None


def tensor(name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> Change:
    """Another tensor in the place of one, or beside all."""
    return lambda folder: save(folder, TENSORS | {name: (dtype, shape, data)})


def without(name: str) -> Change:
    return lambda folder: save(folder, {n: t for n, t in TENSORS.items() if n != name})


def save(folder: Path, tensors: dict[str, Stored]) -> None:
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))


def with_value(name: str, bits: int) -> Change:
    """Bits of a 16- or 32-bit value in the middle of a tensor."""
    dtype, shape, data = TENSORS[name]
    values = np.frombuffer(data, "<u4" if dtype == "F32" else "<u2").copy()
    values[len(values) // 2] = bits
    return tensor(name, dtype, shape, values.tobytes())


def sharded(change: Change) -> Change:
    """The same model in two shards, then changed."""

    def split(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write_folder(folder, CONFIG, TENSORS, n_shards=2)
        change(folder)

    return split


def index(edit: Callable[[dict[str, Any]], None]) -> Change:
    def change(folder: Path) -> None:
        given = json.loads((folder / INDEX).read_text())
        edit(given)
        (folder / INDEX).write_text(json.dumps(given))

    return sharded(change)


def moved(to: str, name: str = NORM) -> Change:
    return index(lambda given: given["weight_map"].__setitem__(name, to))


def pickled(*names: str) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        for name in names:
            (folder / name).write_bytes(b"PK\3\4")

    return change


def remove(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def cut_shard(folder: Path) -> None:
    path = folder / SHARDS[1]
    path.write_bytes(path.read_bytes()[:-5])


def same_tensor_in_both(folder: Path) -> None:
    part = dict(list(TENSORS.items())[1 - HOME :: 2])
    (folder / OTHER).write_bytes(safetensors_bytes(part | {NORM: TENSORS[NORM]}))


def loop_of_links(folder: Path) -> None:
    (folder / SHARDS[0]).unlink()
    (folder / SHARDS[0]).symlink_to(SHARDS[0])


NO_DOWN = f"tensor {DOWN!r} is missing"
BAD: dict[str, tuple[Change, str, str]] = {
    # config.json
    "no config": (remove("config.json"), FILE, "has no config.json"),
    "empty config": (config_text(b""), FILE, "config.json: is not JSON"),
    "config is a list": (config_text(b"[1]"), FILE, "config.json: is a list, wanted an object"),
    "config is not UTF-8": (config_text(b'{"model_type": "\xff"}'), FILE, "is not UTF-8 at byte 16"),
    "config is deep": (config_text(b"[" * 10**6), FILE, "nested too deeply"),
    "config has a name twice": (
        config_text(json.dumps(CONFIG).encode()[:-1] + b', "hidden_size": 64}'),
        FILE,
        "'hidden_size' occurs more",
    ),
    "no model_type": (config(model_type=...), FILE, "model_type is None, wanted a string"),
    "model_type": (config(model_type="mamba9"), UNSUPPORTED, "architecture 'mamba9'"),
    "activation": (config(hidden_act="gelu"), UNSUPPORTED, "config.json: hidden_act is 'gelu', only 'silu'"),
    "activation is a list": (config(hidden_act=["silu"]), UNSUPPORTED, "hidden_act is an array"),
    "kind of rope": (
        rope(rope_type="dynamic", factor=2.0),
        UNSUPPORTED,
        "rope_type is 'dynamic', not default",
    ),
    "rope is a list": (config(rope_scaling=[1]), FILE, "rope_scaling is a list, wanted an object"),
    "rope is a text": (config(rope_parameters="linear"), FILE, "rope_parameters is a str, wanted an object"),
    "a rest of rope": (rope(rope_type="linear", factor=2.0, x=1), UNSUPPORTED, "x of the rope is not known"),
    "no factor": (rope(rope_type="linear"), FILE, "factor of the rope is None, wanted 1e-12 to 10000"),
    "factor of 0": (rope(rope_type="linear", factor=0), FILE, "factor of the rope is 0, wanted 1e-12 to"),
    "negative factor": (rope(rope_type="llama3", factor=-8.0), FILE, "factor of the rope is -8.0, wanted"),
    "factor NaN": (rope(rope_type="yarn", factor=float("nan")), FILE, "factor of the rope is nan, wanted"),
    "factor is a text": (rope(rope_type="yarn", factor="8"), FILE, "factor of the rope is '8', wanted"),
    "base of 0": (config(rope_theta=0), FILE, "rope_theta of the rope is 0, wanted 1e-12 to"),
    "base of 10^400": (config(rope_theta=10**400), FILE, "rope_theta of the rope is 1000000"),
    "original context of 1": (
        rope(rope_type="yarn", factor=2.0, original_max_position_embeddings=1),
        FILE,
        "original_max_position_embeddings of the rope is 1, wanted 2.0 to",
    ),
    "window": (config(use_sliding_window=True), UNSUPPORTED, "use_sliding_window is True, only False"),
    "window is a text": (config(sliding_window="all"), FILE, "sliding_window is a str, wanted a int"),
    "unknown key": (config(logit_scale=2.0), UNSUPPORTED, "logit_scale is not known, its effect would be"),
    "encoder": (config(is_encoder_decoder=True), UNSUPPORTED, "is_encoder_decoder is not known"),
    "quantized": (
        config(quantization_config={"quant_method": "gptq"}),
        UNSUPPORTED,
        "are quantized by 'gptq'",
    ),
    "hidden_size missing": (config(hidden_size=...), FILE, "key 'hidden_size' is missing"),
    "hidden_size null": (config(hidden_size=None), FILE, "key 'hidden_size' is missing"),
    "hidden_size is a text": (config(hidden_size="96"), FILE, "hidden_size is a str, wanted a int"),
    "hidden_size is true": (config(hidden_size=True), FILE, "hidden_size is a bool, wanted a int"),
    "no layers": (config(num_hidden_layers=0), FILE, "num_hidden_layers is 0, wanted 1 to"),
    "negative heads": (config(num_attention_heads=-6), FILE, "num_attention_heads is -6, wanted 1 to"),
    "2^40 layers": (config(num_hidden_layers=2**40), FILE, "num_hidden_layers is 1099511627776, wanted 1 to"),
    "2^31 - 1 layers": (config(num_hidden_layers=2**31 - 1), FILE, "2147483647, wanted 1 to 4096"),
    "4096 layers": (config(num_hidden_layers=4096), FILE, f"{L2!r} is missing"),
    "head_dim of 2^30": (config(head_dim=2**30), UNSUPPORTED, "heads of 1073741824 columns, at most 512"),
    "a layer too few": (config(num_hidden_layers=1), UNSUPPORTED, "does not use, such as 'model.layers.1."),
    "epsilon of 10^400": (
        config_text(json.dumps(CONFIG | {"rms_norm_eps": 10**400}).encode()),
        FILE,
        "rms_norm_eps is a int",
    ),
    "epsilon NaN": (config(rms_norm_eps=float("nan")), FILE, "rms_norm_eps is nan, wanted a finite"),
    "vocabulary": (
        config(vocab_size=VOCAB + 1),
        FILE,
        f"a stated vocabulary of {VOCAB + 1} and {VOCAB} rows",
    ),
    "a tied head of its own": (
        config(tie_word_embeddings="yes"),
        FILE,
        "tie_word_embeddings is a str, wanted",
    ),
    # tensors
    "no weights": (remove("model.safetensors"), FILE, "has neither model.safetensors nor"),
    "pickle": (pickled("pytorch_model.bin"), UNSUPPORTED, "pytorch_model.bin: is a pickle"),
    "pickled shards": (
        pickled("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"),
        UNSUPPORTED,
        "save_pretrained(new_folder)",
    ),
    "shape": (
        tensor(DOWN, "F32", (53, 96), bytes(4 * 53 * 96)),
        FILE,
        "(53, 96), the configuration wants (96, 53)",
    ),
    "a vector for a matrix": (
        tensor(DOWN, "F32", (96,), bytes(4 * 96)),
        FILE,
        "has shape (96,), the configuration",
    ),
    "a scalar for a norm": (
        tensor(NORM, "F32", (), bytes(4)),
        FILE,
        f"{NORM!r} has shape (), the configuration",
    ),
    "an empty norm": (tensor(NORM, "F32", (0,), b""), FILE, f"{NORM!r} has shape (0,), the configuration"),
    "eight-bit floats": (
        tensor(DOWN, "F8_E4M3", (96, 53), bytes(53 * 96)),
        UNSUPPORTED,
        f"{DOWN!r} is f8_e4m3, wanted",
    ),
    "four-bit floats": (
        tensor(DOWN, "F4", (96, 53), bytes(48 * 53)),
        UNSUPPORTED,
        f"{DOWN!r} is 'F4', wanted one of f32",
    ),
    "doubles": (
        tensor(DOWN, "F64", (96, 53), bytes(8 * 96 * 53)),
        UNSUPPORTED,
        f"{DOWN!r} is f64, wanted one of",
    ),
    "a norm of integers": (
        tensor(NORM, "I64", (96,), bytes(8 * 96)),
        UNSUPPORTED,
        f"{NORM!r} is i64, wanted",
    ),
    "a dtype of this library's": (
        tensor(NORM, "q8_0", (96,), bytes(104)),
        UNSUPPORTED,
        f"{NORM!r} is 'q8_0'",
    ),
    "blocks that lie about their size": (
        tensor(DOWN, "f32", (96, 53), bytes(20)),
        UNSUPPORTED,
        f"{DOWN!r} is 'f32', wanted",
    ),
    "no tensor of a layer": (without(DOWN), FILE, NO_DOWN),
    "no head": (without("lm_head.weight"), FILE, "tensor 'lm_head.weight' is missing"),
    "a tensor too many": (
        tensor("model.layers.0.bias", "F32", (3,), bytes(12)),
        UNSUPPORTED,
        "'model.layers.0.bias'",
    ),
    "NaN in a norm": (with_value(NORM, 0x7FC00000), FILE, f"{NORM!r} holds an infinite or NaN"),
    "infinity in a norm": (with_value(NORM, 0xFF800000), FILE, f"{NORM!r} holds an infinite or NaN"),
    "NaN in a matrix": (with_value(Q, 0x7E00), FILE, f"{Q!r}, 'model.layers.1.self_attn.k_proj.weight'"),
    "infinity in the embedding": (
        with_value("model.embed_tokens.weight", 0x7C00),
        FILE,
        "'model.embed_tokens.weight'",
    ),
    # shards
    "missing shard": (sharded(remove(SHARDS[1])), FILE, f"{INDEX}: the shard {SHARDS[1]!r} is missing"),
    "shard cut": (sharded(cut_shard), FILE, f"{SHARDS[1]}: tensor"),
    "shard above": (moved("../" + SHARDS[0]), FILE, f"'../{SHARDS[0]}' is no safetensors file of the folder"),
    "shard below": (moved("sub/x.safetensors"), FILE, "'sub/x.safetensors' is no safetensors file of the"),
    "absolute shard": (moved("/etc/x.safetensors"), FILE, "'/etc/x.safetensors' is no safetensors file"),
    "shard is passwd": (moved("passwd"), FILE, "'passwd' is no safetensors file"),
    "shard with a zero": (moved("a\0.safetensors"), FILE, r"'a\x00.safetensors' is no safetensors file"),
    "shard is the folder": (moved(".."), FILE, "'..' is no safetensors file"),
    "links in a circle": (sharded(loop_of_links), FILE, "is missing"),
    "in the other shard": (moved(OTHER), FILE, f"{NORM!r} is in {OWN!r}, the index has it in {OTHER!r}"),
    "in both shards": (
        sharded(same_tensor_in_both),
        FILE,
        f"{NORM!r} is in {OTHER!r}, the index has it in {OWN!r}",
    ),
    "in the index alone": (
        moved(SHARDS[0], "more"),
        FILE,
        f"tensor 'more' is not in its shard {SHARDS[0]!r}",
    ),
    "in the shard alone": (
        index(lambda given: given["weight_map"].pop(NORM)),
        FILE,
        "the index has it nowhere",
    ),
    "no weight_map": (
        index(lambda given: given.pop("weight_map")),
        FILE,
        "weight_map is missing or no object",
    ),
    "weight_map of numbers": (
        index(lambda given: given.__setitem__("weight_map", {"a": 1})),
        FILE,
        "no object of file",
    ),
    "empty weight_map": (
        index(lambda given: given["weight_map"].clear()),
        FILE,
        "tensor 'model.embed_tokens.weight' is missing",
    ),
}

CHILD = """
import json, sys
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
for path in sys.argv[1:]:
    try:
        Decoder(open_checkpoint(path), n_threads=2)
        print(json.dumps(["opened", ""]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What one child process says of good folders and of all bad ones; it must end by itself."""
    folder = tmp_path_factory.mktemp("bad")
    good: dict[str, Change] = {"good": lambda f: None, "good shards": sharded(lambda f: None)}
    changes = good | {name: change for name, (change, _, _) in BAD.items()}
    paths = [write_folder(folder / str(i), CONFIG, TENSORS) for i in range(len(changes))]
    for path, change in zip(paths, changes.values(), strict=True):
        change(path)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    return dict(zip(changes, map(json.loads, child.stdout.splitlines()), strict=True))


def test_the_folder_that_is_made_bad_is_good(outcomes: dict[str, list[str]]) -> None:
    assert outcomes["good"] == outcomes["good shards"] == ["opened", ""]


@pytest.mark.parametrize("name", BAD)
def test_refused_by_name(outcomes: dict[str, list[str]], name: str) -> None:
    _, kind, message = BAD[name]
    assert outcomes[name][0] == kind, outcomes[name]
    assert message in outcomes[name][1]
