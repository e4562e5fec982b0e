"""The whole decoder over the emulated GPU, through the interface that the engine uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lanner
import models as files
from decoding import IDS, PAGES, check_ids, check_logits, run
from lanner.checkpoint import open_checkpoint
from lanner.cuda.decoder import CudaDecoder
from lanner.decoder import Decoder
from on_device import ON_DEVICE
from oracle import Oracle, size

pytestmark = pytest.mark.usefixtures("gpu")


MODELS = {
    "f16": {},
    "f32": {"formats": {"*": "f32"}},
    "q8_0": {"formats": {"*": "q8_0"}},
    "q4_0": {"formats": {"*": "q4_0"}},
    "q4_k": {"formats": {"*": "q4_k", "token_embd": "q8_0"}, "hidden": 256, "ffn": 256},
    "mixed": {
        "formats": {"*": "q4_1", "attn_v": "q5_0", "ffn_down": "q8_0", "output": "q5_1"},
        "tied": False,
    },
    "qwen2": {"architecture": "qwen2", "tied": False},
    "qwen3": {"architecture": "qwen3", "formats": {"*": "q8_0"}},
}


@pytest.mark.parametrize("name", MODELS)
def test_prefill_and_decode(name: str, made: Callable[..., CudaDecoder]) -> None:
    """A prompt, then token by token over the end of a page: first launched directly, then as a graph."""
    decoder = made(**MODELS[name])
    oracle = Oracle(decoder)
    logits, ids = run(decoder, (0, IDS[:30], PAGES[0]))
    check_logits(logits[0], oracle, IDS[:30])
    check_ids(logits, ids)
    for n in range(30, 34):
        logits, ids = run(decoder, (n, IDS[n : n + 1], PAGES[0]))
        check_logits(logits[0], oracle, IDS[: n + 1])
        check_ids(logits, ids)
    assert decoder.program.core.n_graphs == 1


def test_prompts_beyond_the_skinny_matmul(made: Callable[..., CudaDecoder]) -> None:
    """Two prompts of several tiles in one step, the second in two parts."""
    decoder = made()
    oracle = Oracle(decoder)
    first, second = IDS[:70], IDS[70:170]
    logits, _ = run(decoder, (0, first, PAGES[0]), (0, second[:45], PAGES[1]))
    check_logits(logits[0], oracle, first)
    check_logits(logits[1], oracle, second[:45])
    logits, _ = run(decoder, (45, second[45:], PAGES[1]))
    check_logits(logits[0], oracle, second)


def test_an_h100_has_a_matmul_of_its_own(made: Callable[..., CudaDecoder], gpu: Any) -> None:
    """It reads weights in row-major order, which are there beside those that decoding reads."""
    if ON_DEVICE:
        pytest.skip("the emulation says which kernels were launched")
    gpu.emulator.configure(checks=True, sm_version=90, n_sms=1)
    decoder = made()
    logits, _ = run(decoder, (0, IDS[:70], PAGES[0]))
    check_logits(logits[0], Oracle(decoder), IDS[:70])
    kernels: list[str] = []
    gpu.emulator.set_interpreter(lambda launch: kernels.append(launch["symbol"]))
    run(decoder, (0, IDS[:70], PAGES[0]))
    gpu.emulator.set_interpreter(None)
    assert sum("linear_sm90" in k for k in kernels) == 4 * files.LAYERS
    gpu.emulator.configure(checks=True, sm_version=80)
    q, kv = files.HEADS * files.HEAD_DIM, files.KV_HEADS * files.HEAD_DIM
    values_of_layer = files.HIDDEN * (q + 2 * kv + q + 3 * files.FFN)
    assert decoder.weight_bytes - made().weight_bytes == 2 * files.LAYERS * values_of_layer


def test_a_batch_of_several_lengths(made: Callable[..., CudaDecoder]) -> None:
    """Three sequences decode in the bucket of four, beside a prompt in a step that is no decode step."""
    decoder = made()
    oracle = Oracle(decoder)
    seqs = [IDS[:33], IDS[40:47], IDS[60:85]]
    for ids, pages in zip(seqs, PAGES, strict=True):
        run(decoder, (0, ids, pages))
    for n in range(2):
        chunks = [(len(ids), [IDS[100 + n]], pages) for ids, pages in zip(seqs, PAGES, strict=True)]
        logits, ids = run(decoder, *chunks)
        seqs = [[*ids, IDS[100 + n]] for ids in seqs]
        for row, ids_of_row in zip(logits, seqs, strict=True):
            check_logits(row, oracle, ids_of_row)
        check_ids(logits, ids)
    logits, _ = run(
        decoder,
        (len(seqs[0]), [7], PAGES[0]),
        (len(seqs[1]), IDS[120:123], PAGES[1]),
        (len(seqs[2]), [9], PAGES[2]),
    )
    for row, ids_of_row in zip(
        logits, ([*seqs[0], 7], [*seqs[1], *IDS[120:123]], [*seqs[2], 9]), strict=True
    ):
        check_logits(row, oracle, ids_of_row)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 16, 21])
def test_every_bucket(n: int, made: Callable[..., CudaDecoder]) -> None:
    decoder = made()
    oracle = Oracle(decoder)
    for turn in range(2):
        logits, _ = run(decoder, *((turn, [IDS[s + 30 * turn]], [n - 1 - s]) for s in range(n)))
        for s in range(n):
            check_logits(logits[s], oracle, [IDS[s], IDS[s + 30]][: turn + 1])
    assert decoder.program.core.n_graphs == 1


def test_a_graph_computes_what_direct_launches_do(made: Callable[..., CudaDecoder], gpu: Any) -> None:
    """The same step again, to the last bit, also with other blocks first and other deliveries of copies."""
    decoder = made()
    run(decoder, (0, IDS[:20], PAGES[0]))
    step = (20, IDS[20:21], PAGES[0])
    first, _ = run(decoder, step)
    for schedule in ({}, {"order": "reverse"}, {"order": "random", "seed": 5, "copies": "eager"}):
        gpu.emulator.configure(**schedule)
        again, _ = run(decoder, step)
        assert np.array_equal(first, again)
    assert decoder.program.core.n_graphs == 1


def test_pages_are_copied(made: Callable[..., CudaDecoder]) -> None:
    decoder = made()
    run(decoder, (0, IDS[:20], [4]))
    decoder.copy_pages([(0, 4, 7)])
    a, b = (run(decoder, (20, [5], pages))[0] for pages in ([7], [4]))
    assert np.array_equal(a, b)
    with pytest.raises(ValueError, match="copy_page: page is 10000, the cache has"):
        decoder.copy_pages([(0, 10_000, 1)])


def test_as_near_to_the_cpu_as_bfloat16_is(made: Callable[..., CudaDecoder], tmp_path: Path) -> None:
    """The CPU's own logits of the same file, whose weights bfloat16 holds."""
    decoder = made({"*": "bf16"})
    oracle = Oracle(decoder)
    cpu = Decoder(open_checkpoint(tmp_path / "model.gguf"), context=384, kv_dtype="f32")
    for start, ids in ((0, IDS[:50]), (50, IDS[50:51]), (51, IDS[51:52])):
        (got, chosen), (wanted, cpu_chosen) = (run(d, (start, ids, PAGES[0])) for d in (decoder, cpu))
        cost = size(
            np.subtract(*(oracle.logits(IDS[: start + len(ids)], rounded=r)[-1] for r in (True, False)))
        )
        assert size(got - wanted) <= 3 * cost
        assert chosen == cpu_chosen


def test_steps_that_point_nowhere_are_refused(made: Callable[..., CudaDecoder]) -> None:
    decoder = made()
    for chunk, message in (
        ((0, [files.VOCAB], PAGES[0]), f"token id {files.VOCAB} is outside the vocabulary"),
        ((0, [1], [10_000]), "page 10000 of sequence 0 is outside the cache"),
    ):
        with pytest.raises(ValueError, match=message):
            run(decoder, chunk)


def test_memory_and_what_does_not_fit(made: Callable[..., CudaDecoder], tmp_path: Path) -> None:
    decoder = made()
    used = decoder.weight_bytes + decoder.program.arena_bytes + decoder._caches.n_bytes
    assert used <= 64 << 20
    assert decoder.n_params > 0 and set(decoder.formats) == {"f16", "f32"}
    with pytest.raises(lanner.OutOfMemoryBudget, match="more than the max_memory of 1 MB"):
        CudaDecoder(open_checkpoint(tmp_path / "model.gguf"), max_memory=1 << 20)
    with pytest.raises(lanner.DeviceError, match="interpret: a program of a GPU"):
        decoder.program.interpret(decoder.step)
    with pytest.raises(ValueError, match="kv_dtype is 'q8', wanted 'bf16'"):
        CudaDecoder(open_checkpoint(tmp_path / "model.gguf"), kv_dtype="q8")


def test_a_context_that_fits_is_named(made: Callable[..., CudaDecoder], tmp_path: Path) -> None:
    """One sequence of the context that a model was trained for may be more than the GPU has."""
    whole = made(n_pages=files.CONTEXT // 32)
    page_bytes = whole._caches.n_bytes // whole.page_groups[0].n_pages
    most = whole.weight_bytes + whole.program.arena_bytes + 5 * page_bytes + 100
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    with pytest.raises(lanner.OutOfMemoryBudget, match=r"load with a context of at most 160$"):
        CudaDecoder(checkpoint, max_memory=most)
    assert CudaDecoder(checkpoint, context=160, max_memory=most).page_groups[0].n_pages >= 5
    with pytest.raises(lanner.OutOfMemoryBudget, match="no context would fit"):
        CudaDecoder(checkpoint, max_memory=1 << 20)


def test_positions_that_no_table_has_are_refused(made: Callable[..., CudaDecoder], gpu: Any) -> None:
    decoder = made()
    run(decoder, (0, IDS[:11], PAGES[0]))
    step, group = decoder.step, decoder.page_groups[0]
    names = ("max_tokens", "max_seqs", "max_outputs", "max_pages", "n_groups")
    for n_positions in (10, 11):
        sizes = {name: getattr(step, name) for name in names} | {"max_keys": 384, "n_positions": n_positions}
        program = gpu.Program(sizes, step.memoryviews(), files.VOCAB, [(group.n_pages, 0)])
        refused = pytest.raises(ValueError, match="position 10 of token 10 is outside the table of 10")
        with refused if n_positions == 10 else nullcontext():
            program.run(11, 1, 1)


def test_cancelled_steps_do_not_begin(made: Callable[..., CudaDecoder]) -> None:
    decoder = made()
    run(decoder, (0, [1], [0]))
    decoder.cancel()
    assert not decoder.run()
    decoder.clear_cancel()
    assert not decoder.run(deadline_s=0.0)
    assert decoder.run()
