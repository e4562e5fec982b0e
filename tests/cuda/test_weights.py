"""Weights of files in the types of the GPU, against what the CPU makes of the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lanner
import models as files
from lanner import models
from lanner.checkpoint import open_checkpoint
from lanner.cuda import pack
from lanner.cuda.symbols import Order
from lanner.cuda.weights import DeviceWeight, DeviceWeights, rows_in, vector
from lanner.weights import Weights

ORDERS = {
    "attn.qkv": Order("qkv", files.HEADS, files.KV_HEADS, files.HEAD_DIM, files.HEAD_DIM),
    "ffn.gate_up": Order("gated"),
}


def loaded(path: Path, of: type[Weights], quantize: str | None = None) -> dict[str, object]:
    """The matrices of a model by name."""
    checkpoint = open_checkpoint(path)
    settings = checkpoint.settings
    settings.context = None
    module = models.find(settings)
    weights = of(checkpoint, 1, models.hf_names(module, settings), quantize, module.HF_PREFIX)
    model = module.load(module.config(settings, weights), weights)
    if of is Weights:
        weights.packer.wait()
    made = {"tok": model.ends.tok}
    for i, layer in enumerate(model.layers):
        made |= {f"{i}.attn.qkv": layer.attn.qkv, f"{i}.attn.o": layer.attn.o}
        made |= {f"{i}.ffn.gate_up": layer.gate_up, f"{i}.ffn.down": layer.down}
    return made


def unpacked(weight: DeviceWeight, order: Order) -> np.ndarray:
    """Float64 rows, back in the order of the model."""
    rows = np.concatenate([pack.unpack(piece) for piece in weight.packed(order)])
    made = np.empty_like(rows)
    made[rows_in(order, weight.shape[0])] = rows
    return made


# What a type adds to the error of a format: of values, by their size and that of the largest of 32.
def most_off(format: str, exact: np.ndarray) -> np.ndarray:
    groups = np.abs(exact).reshape(exact.shape[0], -1, 32).max(axis=2).repeat(32, axis=1)
    if format in ("q4_0", "q4_1", "q8_0"):
        return np.zeros_like(groups)
    if format == "q4_k":  # scales and minima rounded to float16; either may be several times the sum
        return 8 * groups * 2.0**-11
    if format in ("f32", "f16", "bf16"):
        return np.abs(exact) * 2.0**-8
    return groups * (0.5 / 127 + 2.0**-11)


@pytest.mark.parametrize("format", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1"])
def test_every_format_keeps_what_it_can(format: str, tmp_path: Path) -> None:
    path = files.write(tmp_path / "m.gguf", {"*": format}, hidden=256, ffn=256, n_layers=1)
    exact, made = loaded(path, Weights), loaded(path, DeviceWeights)
    for name, weight in made.items():
        of_cpu = exact[name].unpack().astype(np.float64)
        of_gpu = unpacked(weight, ORDERS.get(name[2:], Order()))
        assert of_gpu.shape == of_cpu.shape
        assert (np.abs(of_gpu - of_cpu) <= most_off(format, of_cpu)).all(), name
        assert weight.nbytes == sum(piece.nbytes for piece in weight.packed(Order()))


def test_fused_weights_of_several_formats(tmp_path: Path) -> None:
    formats = {"attn_q": "q4_0", "attn_k": "q8_0", "attn_v": "q5_0", "ffn_gate": "f32", "ffn_up": "q4_1"}
    path = files.write(tmp_path / "m.gguf", formats, n_layers=1)
    exact, made = loaded(path, Weights), loaded(path, DeviceWeights)
    for name, type in (("0.attn.qkv", "int8"), ("0.ffn.gate_up", "bf16")):
        assert made[name].type == type
        of_cpu = exact[name].unpack().astype(np.float64)
        off = np.abs(unpacked(made[name], ORDERS[name[2:]]) - of_cpu)
        assert (off <= most_off("f32" if type == "bf16" else "q5_0", of_cpu)).all()


@pytest.mark.parametrize(("quantize", "type"), [("q8_0", "int8"), ("q4_0", "int4")])
def test_quantized_while_loading(quantize: str, type: str, tmp_path: Path) -> None:
    path = files.write(tmp_path / "m.gguf", n_layers=1)
    exact, made = loaded(path, Weights, quantize), loaded(path, DeviceWeights, quantize)
    for name, weight in made.items():
        assert weight.type == type
        of_cpu = exact[name].unpack().astype(np.float64)
        assert np.array_equal(unpacked(weight, ORDERS.get(name[2:], Order())), of_cpu), name


def test_pieces_are_whole_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = loaded(files.write(tmp_path / "m.gguf", {"*": "q4_0"}), DeviceWeights)["0.attn.qkv"]
    whole = next(weight.packed(ORDERS["attn.qkv"]))
    monkeypatch.setattr("lanner.cuda.weights.CHUNK_VALUES", 48 * files.HIDDEN)
    pieces = list(weight.packed(ORDERS["attn.qkv"]))
    assert len(pieces) == 11
    assert np.array_equal(np.concatenate([piece.codes for piece in pieces]), whole.codes)
    assert np.array_equal(np.concatenate([piece.scales for piece in pieces]), whole.scales)


def test_biases_follow_their_rows() -> None:
    order = ORDERS["attn.qkv"]
    n = 8 * files.HEAD_DIM
    assert np.array_equal(vector(np.arange(n), "float32", order, n), rows_in(order, n))
    assert np.array_equal(vector([1.0, 2.0], "float32", Order(), 2), [1.0, 2.0] + [0.0] * 14)


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = files.write(tmp_path / "m.gguf", {"*": "f16"}, n_layers=1)
    data = bytearray(path.read_bytes())
    at = open_checkpoint(path).tensors["blk.0.ffn_down.weight"].offset
    data[at : at + 2] = np.float16(np.inf).tobytes()
    path.write_bytes(data)
    made = loaded(path, DeviceWeights)
    with pytest.raises(lanner.ModelFileError, match="holds an infinite or NaN value"):
        list(made["0.ffn.down"].packed(Order()))
