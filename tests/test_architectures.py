"""Every architecture: the same bits however a text is cut, on any number of threads, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

import random_models
from gguf_writer import Encoded, gguf_bytes
from lanner import ModelFileError, UnsupportedModelError, _core
from random_models import CONTEXT, MODELS, VOCAB, decoder, tensors
from reference import FLOATS, FORMATS, dequantize, random_rows
from stepping import run_step, step_logits

IDS = np.random.default_rng(3).integers(0, VOCAB, 150).tolist()
QUANTIZED = {"*": "q4_1", "attn_v": "q8_0", "token_embd": "q8_0", "ffn_down": "q5_0", "ffn_down_exps": "q8_0"}


@pytest.mark.parametrize("formats", [{}, QUANTIZED], ids=["f32", "quantized"])
@pytest.mark.parametrize("name", MODELS)
def test_bits_do_not_depend_on_chunks_and_threads(name: str, formats: dict[str, str], tmp_path: Path) -> None:
    path = random_models.write(MODELS[name], tmp_path / "model.gguf", formats)
    whole = step_logits(decoder(path), IDS, 64)
    assert np.isfinite(whole).all()
    assert np.ptp(whole) > 0.1
    for n_threads, chunk in ((1, 7), (2, 1), (3, 5), (4, 37)):
        given = step_logits(decoder(path, n_threads=n_threads), IDS, chunk)
        assert np.array_equal(given, whole), (n_threads, chunk)


@pytest.mark.parametrize("name", MODELS)
def test_executor_and_interpreter_agree(name: str, tmp_path: Path) -> None:
    path = random_models.write(MODELS[name], tmp_path / "model.gguf", QUANTIZED)
    one, other = decoder(path, n_threads=2), decoder(path)
    for start, n in ((0, 90), (90, 1), (91, 3)):
        outputs = [0, n - 1]
        assert run_step(one, IDS[start : start + n], start, outputs)
        assert run_step(other, IDS[start : start + n], start, outputs)
        values = other.program.interpret(other.step)
        logits = values[other.program.kept[0].place.name]
        assert np.array_equal(one.logits(2), logits)


@pytest.mark.parametrize("name", MODELS)
def test_a_key_that_is_not_known_is_refused(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    metadata = model.metadata() | {f"{model.architecture}.attention.alibi": True}
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(metadata, tensors(model, {})))
    with pytest.raises(UnsupportedModelError, match=r"attention\.alibi is not known"):
        decoder(path)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_needed_and_has_its_shape(name: str, tmp_path: Path) -> None:
    model, path = MODELS[name], tmp_path / "model.gguf"
    whole = tensors(model, {})
    one_layer = [n for n in whole if not n.startswith("blk.") or n.startswith("blk.1.")]
    for tensor in one_layer:
        if tensor == "output.weight":  # without it, the head is the embedding
            continue
        path.write_bytes(gguf_bytes(model.metadata(), {n: v for n, v in whole.items() if n != tensor}))
        with pytest.raises(ModelFileError, match=r"missing"):
            decoder(path)
    for tensor in one_layer:
        grown = np.zeros([n + 1 for n in whole[tensor].shape], np.float32)
        path.write_bytes(gguf_bytes(model.metadata(), whole | {tensor: grown}))
        with pytest.raises(ModelFileError):
            decoder(path)


@pytest.mark.parametrize("name", MODELS)
def test_a_tensor_too_many_is_refused(name: str, tmp_path: Path) -> None:
    model, path = MODELS[name], tmp_path / "model.gguf"
    extra = {"blk.0.attn_sinks.weight": np.zeros(6, np.float32)}
    path.write_bytes(gguf_bytes(model.metadata(), tensors(model, {}) | extra))
    with pytest.raises(UnsupportedModelError, match="attn_sinks"):
        decoder(path)


WIDE = random_models.Random("llama", {"feed_forward_length": 256, "attention.key_length": 128}, hidden=256)


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt not in FLOATS])
def test_a_model_of_every_format_is_that_of_its_dequantized_weights(fmt: str, tmp_path: Path) -> None:
    """All matrices in one format, beside the same numbers in float32: inputs of matmuls alone are rounded."""
    rng = np.random.default_rng(6)
    coded, floats = tensors(WIDE, {}), tensors(WIDE, {})
    for name, values in coded.items():
        if values.ndim == 2:
            rows = random_rows(fmt, *values.shape, rng)
            coded[name] = Encoded(int(GGMLQuantizationType[fmt.upper()]), values.shape, rows.tobytes())
            floats[name] = dequantize(fmt, rows)
        elif "attn_norm" in name:  # scores that stay small: softmax would enlarge what is rounded
            coded[name] = floats[name] = values * np.float32(0.05)
    logits = []
    for kind, each in (("coded", coded), ("floats", floats)):
        path = tmp_path / f"{kind}.gguf"
        path.write_bytes(gguf_bytes(WIDE.metadata(), each))
        logits.append(step_logits(decoder(path, kv_dtype="f32"), IDS, 64))
    given, wanted = logits
    # The largest of 32 normal inputs is 2.1 of them, a step a 127th of that, an error step / sqrt(12): 0.5 %
    # of each matmul's result, or with 16-bit codes a 258th of that. Nine matmuls stand behind each other.
    codes = 32767 if _core.input_of(fmt) == "int16" else 127
    error = 2.1 / codes / 12**0.5
    assert np.linalg.norm(given - wanted) <= 9 * error * np.linalg.norm(wanted)


def test_windows_forget(tmp_path: Path) -> None:
    """With windows of 70 in both layers, a token 200 back changes nothing; without, it does."""
    for name, changes in (("windows", False), ("all", True)):
        keys = {"attention.sliding_window": 70} if name == "windows" else {}
        model = random_models.Random("llama", keys)
        path = random_models.write(model, tmp_path / f"{name}.gguf")
        rng = np.random.default_rng(0)
        ids = rng.integers(0, VOCAB, 260).tolist()
        other = [(ids[0] + 1) % VOCAB, *ids[1:]]
        rows = [step_logits(decoder(path, context=CONTEXT), each, 64)[-1] for each in (ids, other)]
        assert np.array_equal(*rows) is not changes


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes({"general.architecture": "mamba"}, {}))
    with pytest.raises(UnsupportedModelError, match=r"'mamba' is not supported, only llama, .*qwen3moe"):
        decoder(path)
