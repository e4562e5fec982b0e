"""From the flat list to launches: what is one launch, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import lanner
import models as files
from lanner import models
from lanner.builder import Builder, Rope
from lanner.checkpoint import open_checkpoint
from lanner.cuda.arena import places_of
from lanner.cuda.kv_cache import make_caches
from lanner.cuda.lowering import Lowering
from lanner.cuda.program import CudaProgram, describe
from lanner.cuda.symbols import Matrix
from lanner.cuda.weights import DeviceWeights
from lanner.phases import Value

DECODE = """
L00.rope     rope_table        rows=tokens
embed        embed             bf16 plain
L00.attn.qkv linear            norm bf16 qkv rows=tokens
L00.attn     attention_decode
L00.attn.o   linear            bf16 plain residual rows=tokens
L00.ffn.gate_up linear         norm bf16 gated rows=tokens
L00.ffn.down linear            bf16 plain residual rows=tokens
L01.attn.qkv linear            norm bf16 qkv rows=tokens
L01.attn     attention_decode
L01.attn.o   linear            bf16 plain residual rows=tokens
L01.ffn.gate_up linear         norm bf16 gated rows=tokens
L01.ffn.down linear            bf16 plain residual rows=tokens
last         gather_rows       rows=outputs
head         linear            norm bf16 plain logits rows=outputs
sample       sample            rows=outputs
"""
"""The decode list of a llama of two layers: five launches a layer."""

PREFILL_LAYER = """
L01.attn.norm rms_norm         rows=tokens
L01.attn.qkv linear            bf16 qkv rows=tokens
L01.attn     attention_prefill
L01.attn.o   linear            bf16 plain residual rows=tokens
L01.ffn.norm rms_norm          rows=tokens
L01.ffn.gate_up linear         bf16 gated rows=tokens
L01.ffn.down linear            bf16 plain residual rows=tokens
"""


def program(path: Path) -> CudaProgram:
    checkpoint = open_checkpoint(path)
    settings = checkpoint.settings
    settings.context = None
    module = models.find(settings)
    weights = DeviceWeights(checkpoint, 1, models.hf_names(module, settings), None, module.HF_PREFIX)
    config = module.config(settings, weights)
    caches = make_caches(config.windows, config.n_kv_heads, config.head_dim)
    builder = Builder(caches.layers, config.n_heads, config.head_dim)
    logits = module.build(builder, config, module.load(config, weights))
    sampled = builder.sample(logits)
    return CudaProgram(builder, logits, sampled, config.n_kv_heads, config.head_dim, 512, 64, graph_rows=32)


def summary(made: CudaProgram, steps: str) -> list[list[str]]:
    """Name, operation, and what stands around matmuls."""
    lines = []
    for launch in made.lists[steps]:
        words = [launch.name, launch.op]
        if "norm_weight" in launch.args:
            words.append("norm")
        matrix = launch.args.get("weight")
        if isinstance(matrix, Matrix):
            words += [matrix.weight.format, matrix.order.kind]
        words += [name for name in ("residual", "logits") if launch.op == "linear" and name in launch.args]
        if launch.op != "embed" and "rows" in launch.args:
            words.append(f"rows={launch.args['rows'].kind}")
        lines.append(words)
    return lines


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> CudaProgram:
    return program(files.write(tmp_path_factory.mktemp("lowering") / "llama.gguf"))


def test_a_layer_decodes_in_five_launches(llama: CudaProgram) -> None:
    assert summary(llama, "decode") == words(DECODE)


def test_prefill_norms_by_itself(llama: CudaProgram) -> None:
    made = summary(llama, "other")
    assert [line for line in made if line[0].startswith("L01")] == words(PREFILL_LAYER)
    assert len(made) == len(words(DECODE)) + 2 * files.LAYERS + 1


def test_every_value_has_a_place_of_its_own(llama: CudaProgram) -> None:
    """Values of a launch do not overlap, but for those that it changes in place."""
    for steps, made in llama.lists.items():
        offsets = llama._layouts[steps][0]
        rows = {"tokens": 32 if steps == "decode" else 512, "outputs": 64}
        for launch in made:
            places = {p for p in places_of(launch.args) if p in offsets}
            spans = sorted(
                (offsets[p], offsets[p] + p.cols * llama._widths[p] * rows[p.kind]) for p in places
            )
            assert all(a[1] <= b[0] for a, b in pairwise(spans)), describe(launch)


def test_head_norms_stand_between_matmul_and_rotation(tmp_path: Path) -> None:
    made = summary(program(files.write(tmp_path / "q.gguf", architecture="qwen3")), "decode")
    ops = [line[1] for line in made if line[0].startswith("L01")]
    assert ops == ["linear", "head_norm", "rope_append", "attention_decode", "linear", "linear", "linear"]


def test_fused_weights_of_several_formats_have_one_type(tmp_path: Path) -> None:
    formats = {"attn_q": "q4_0", "attn_k": "q4_0", "attn_v": "q8_0", "ffn_gate": "q4_1", "ffn_up": "q4_1"}
    made = summary(program(files.write(tmp_path / "mixed.gguf", formats)), "decode")
    types = {line[0]: line[-3] for line in made if line[0].startswith("L00.") and "rows=tokens" in line}
    assert types["L00.attn.qkv"] == "int8"
    assert types["L00.ffn.gate_up"] == "int4"


# --- on lists of one's own ----------------------------------------------------------------------------------
class Weight:
    """What a builder asks of a weight."""

    inputs = ("int8",)
    format = "q4_0"

    def __init__(self, n: int = 128, k: int = 128) -> None:
        self.segment_rows, self.shape = (n,), (n, k)


def lowered(b: Builder, logits: Value, **options: bool) -> list[str]:
    low = Lowering(b.instructions, logits, b.sample(logits), 2, 64)
    return [f"{launch.name} {launch.op}" for launch in low.launches(**options)]


def new_builder() -> Builder:
    return Builder(make_caches((0,), 2, 64).layers, 2, 64)


def test_codes_of_the_cpu_are_no_launches() -> None:
    b = new_builder()
    x = b.embed(Weight())
    logits = b.linear(b.rms_norm(x, None, 1e-5, "norm"), Weight(), "head")
    assert [i.op for i in b.instructions] == ["embed", "rms_norm", "quantize_rows", "linear"]
    assert lowered(b, logits, decode=True) == ["embed embed", "head linear", "sample sample"]


def test_a_norm_with_two_readers_stays() -> None:
    b = new_builder()
    h = b.rms_norm(b.embed(Weight()), None, 1e-5, "norm")
    y = b.linear(h, Weight(), "first")
    logits = b.linear(h, Weight(), "second", add_to=y)
    assert "norm rms_norm" in lowered(b, logits, decode=True)


def test_a_norm_of_what_the_matmul_changes_stays() -> None:
    """Blocks that end early would change what others still norm."""
    b = new_builder()
    x = b.embed(Weight())
    x = b.linear(b.rms_norm(x, None, 1e-5, "norm"), Weight(), "ffn", add_to=x)
    logits = b.linear(x, Weight(), "head")
    assert "norm rms_norm" in lowered(b, logits, decode=True)


def test_queries_that_are_read_before_they_are_rotated_stay() -> None:
    b = new_builder()
    qkv = b.linear(b.embed(Weight()), Weight(), "qkv", by_heads=True)
    b.scale(qkv, 2.0, "copy")
    q = b.rope_append(qkv, 0, Rope([1.0] * 32), "rope")
    logits = b.linear(b.attention(q, 0, 0.125, "attn"), Weight(), "head")
    made = lowered(b, logits, decode=False)
    assert "rope rope_append" in made and "copy scale" in made


def test_what_has_no_kernel_is_refused_by_name() -> None:
    b = new_builder()
    x = b.embed(Weight())
    y = b.add_gated(x, x, b.linear(x, Weight(), "gate"), "shared")
    with pytest.raises(
        lanner.UnsupportedModelError,
        match=r"operation add_gated \(shared\) has no kernel there; use device='cpu'",
    ):
        lowered(b, b.linear(y, Weight(), "head"), decode=True)


def test_rows_that_are_no_units_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        lanner.UnsupportedModelError, match=r"has rows of 96, device='cuda' wants a multiple of 64"
    ):
        program(files.write(tmp_path / "narrow.gguf", hidden=96))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 80}, r"attention_decode \(L00.attn\) has head_dim 80, wanted 64, 128 or 256"),
        ({"head_dim": 96}, r"attention_decode \(L00.attn\) has head_dim 96, wanted 64, 128 or 256"),
        (
            {"vocab": 524296, "hidden": 64},
            r"sample \(sample\) has vocab_size 524296, wanted a multiple of 1 up to 524288",
        ),
    ],
)
def test_sizes_without_a_kernel_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Before the GPU is asked for memory: no program is placed here."""
    path = files.write(tmp_path / "model.gguf", **options)
    with pytest.raises(
        lanner.UnsupportedModelError, match=f"device='cuda': operation {message}; use device='cpu'"
    ):
        program(path)


def test_values_of_odd_sizes_are_refused() -> None:
    """Kernels read 16 bytes at a time, and a norm keeps a row in registers."""
    for n, change, message in (
        (
            16392,
            lambda b, x: b.rms_norm(x, None, 1e-5, "wide"),
            "cols 16392, wanted a multiple of 8 up to 16384",
        ),
        (16384, lambda b, x: b.rms_norm(x, None, 1e-5, "wide"), None),
        (132, lambda b, x: b.activate(x, "relu", "odd"), "cols 132, wanted a multiple of 8"),
        (136, lambda b, x: b.activate(x, "relu", "odd"), None),
    ):
        b = new_builder()
        x = change(b, b.linear(b.embed(Weight()), Weight(n, 128), "up"))
        logits = b.linear(x, Weight(128, n), "head")
        with pytest.raises(lanner.UnsupportedModelError, match=message) if message else nullcontext():
            lowered(b, logits, decode=False)
    for n, is_fit in ((130, False), (132, True)):
        b = new_builder()
        logits = b.softcap(b.linear(b.embed(Weight()), Weight(n, 128), "head"), 30.0, "softcap")
        refused = pytest.raises(lanner.UnsupportedModelError, match="cols 130, wanted a multiple of 4")
        with nullcontext() if is_fit else refused:
            lowered(b, logits, decode=True)


@pytest.mark.parametrize("n_rotated", [24, 32])
def test_rotations_of_odd_sizes_are_refused(n_rotated: int) -> None:
    b = new_builder()
    qkv = b.linear(b.embed(Weight()), Weight(384, 128), "qkv", by_heads=True)
    q = b.rope_append(qkv, 0, Rope([1.0] * (n_rotated // 2)), "rope")
    logits = b.linear(b.attention(q, 0, 0.125, "attn"), Weight(), "head")
    message = r"rope_append \(rope\) has rope_dim 24, wanted a multiple of 16 up to 64"
    refused = pytest.raises(lanner.UnsupportedModelError, match=message)
    with refused if n_rotated % 16 else nullcontext():
        lowered(b, logits, decode=True)
