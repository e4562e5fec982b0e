"""What `max_memory` counts against what is reserved."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lanner
import random_models
from lanner import _core, _memory
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from lanner.llm import Model
from lanner.weights import Weights
from stepping import step_logits
from targets import IdTokenizer
from tiny_folder import write_folder
from tiny_llama import MODELS, make


def test_a_budget_is_what_the_estimate_says(tmp_path: Path) -> None:
    path = make(MODELS["heads_of_16"], tmp_path / "t.gguf").path
    told = lanner.estimate(path, threads=1)
    wanted = told.weight_bytes + told.kv_bytes + told.scratch_bytes
    assert wanted <= told.peak_bytes
    checkpoint = open_checkpoint(path)
    assert Decoder(checkpoint, max_memory=wanted).context == told.context
    with pytest.raises(_core.OutOfMemoryBudget, match=f"needs {wanted} bytes, max_memory is {wanted - 1}"):
        Decoder(checkpoint, max_memory=wanted - 1)
    with pytest.raises(_core.OutOfMemoryBudget, match="no context would fit"):
        Decoder(checkpoint, max_memory=1000)


def windowed(tmp_path: Path) -> Path:
    """Seven layers, of which six have a window of 70, and a vocabulary of 131: rows of logits are small."""
    model = random_models.MODELS["gemma3"]
    keys = model.keys | {"context_length": 4096}
    return random_models.write(replace(model, keys=keys), tmp_path / "model.gguf")


def n_pages(path: Path, **options: object) -> list[int]:
    return [group.n_pages for group in random_models.decoder(path, **options).page_groups]


def test_pages_are_what_a_budget_leaves(tmp_path: Path) -> None:
    """4096 positions in one layer, 70 and a chunk of 512 in six: 20 pages, of which two are cut."""
    path = windowed(tmp_path)
    one = lanner.estimate(path, threads=1)
    page = one.kv_bytes // (128 + 6 * 20)
    assert page == 2 * 32 * 2 * 16 * 2
    fixed = one.weight_bytes + one.scratch_bytes
    assert n_pages(path, max_memory=fixed + one.kv_bytes) == [128, 20]
    assert n_pages(path, max_memory=fixed + one.kv_bytes * 5 // 2) == [320, 50]
    assert n_pages(path, max_memory=1 << 40) == [64 * 128, 64 * 20]
    assert n_pages(path, max_memory=fixed + one.kv_bytes, context=512) == [35, 35]
    eight = lanner.estimate(path, threads=1, kv_dtype="q8")
    assert eight.kv_bytes == (128 + 6 * 20) * 2 * 32 * 2 * (16 + 4)
    assert eight.weight_bytes + eight.scratch_bytes == fixed


def test_a_whole_context_runs_in_the_pages_of_its_windows(tmp_path: Path) -> None:
    """4000 of 4096 positions in 20 pages of 32, with the bits of a cache that keeps them all."""
    path = windowed(tmp_path)
    one = lanner.estimate(path, threads=2)
    budget = one.weight_bytes + one.scratch_bytes + one.kv_bytes
    ids = np.random.default_rng(0).integers(0, random_models.VOCAB, 4000).tolist()
    wanted = step_logits(random_models.decoder(path, n_threads=2, max_memory=1 << 40), ids, 64)
    decoder = random_models.decoder(path, n_threads=2, max_memory=budget)
    assert [group.n_pages for group in decoder.page_groups] == [128, 20]
    with Model(decoder, IdTokenizer()) as model:
        np.testing.assert_array_equal(model.logits(ids), wanted)
        made = model.generate(ids, max_tokens=40, ignore_eos=True).tokens
    assert made[0] == wanted[-1].argmax()
    decoder = random_models.decoder(path, n_threads=1, max_memory=1 << 40)
    assert step_logits(decoder, ids + made, 50)[3999:-1].argmax(axis=1).tolist() == made


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_sequences_are_as_many_as_a_budget_has_rows_for(batch: int, tmp_path: Path) -> None:
    """The arena and the pages that are reserved stay within it, with a row of logits for every sequence."""
    path = make(MODELS["heads_of_16"], tmp_path / "t.gguf").path
    told = lanner.estimate(path, threads=1, batch=batch)
    budget = told.weight_bytes + told.kv_bytes + told.scratch_bytes
    decoder = Decoder(open_checkpoint(path), max_memory=budget)
    pages = sum(cache.page_bytes * cache.n_pages for cache in decoder.caches.caches)
    assert decoder.weight_bytes + pages + decoder.program.core.arena_bytes <= budget
    assert decoder.step.max_seqs == decoder.step.max_outputs
    assert batch // 2 < decoder.step.max_seqs <= 64


def test_rows_of_logits_leave_half_to_the_pages(tmp_path: Path) -> None:
    """64 rows of 20000 take 5 MB, of which the other values of a step leave 3 that are not theirs before."""
    path = make(replace(MODELS["heads_of_16"], vocab=20000), tmp_path / "t.gguf").path
    one = lanner.estimate(path, threads=1)
    wanted = one.weight_bytes + one.kv_bytes + one.scratch_bytes
    max_seqs = []
    for surplus in (0, 1 << 20, 2 << 20, 20 << 20):
        decoder = Decoder(open_checkpoint(path), max_memory=wanted + surplus)
        max_seqs.append(decoder.step.max_seqs)
        pages = sum(cache.page_bytes * cache.n_pages for cache in decoder.caches.caches)
        told = lanner.estimate(path, threads=1, batch=max_seqs[-1])
        assert min(64 * one.kv_bytes, one.kv_bytes + surplus // 2) - 8192 <= pages
        assert told.weight_bytes + told.scratch_bytes + pages <= wanted + surplus
    assert 1 <= max_seqs[0] < max_seqs[2] < max_seqs[3] == 64


def test_without_a_budget_half_of_what_weights_leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = windowed(tmp_path)
    kv_bytes = lanner.estimate(path).kv_bytes
    to_come = Weights(open_checkpoint(path), 1).n_bytes
    for available, wanted in ((None, [128, 20]), (0, [128, 20]), (6 * kv_bytes + to_come, [384, 60]),
                              (1 << 40, [8192, 1280])):  # fmt: skip
        monkeypatch.setattr(_memory, "available_bytes", lambda available=available: available)
        assert n_pages(path) == wanted
        assert random_models.decoder(path).step.max_seqs == 64


PEAK = """
import json, sys
from lanner.checkpoint import open_checkpoint
from lanner.weights import Source, Weights
def kilobytes(field):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field + ":"))
def packed(name, *shape):
    weights = Weights(checkpoint, 2, {"a": "a", "warm": "warm"}, quantize=sys.argv[2] or None)
    weight = weights.packed(Source(f"{name}.weight", shape))
    weights.packer.wait()
    return weight
checkpoint = open_checkpoint(sys.argv[1])
packed("warm", 16, 32)
before = kilobytes("VmRSS")
weight = packed("a", 16384, 2048)
print(json.dumps([weight.nbytes, before << 10, kilobytes("VmHWM") << 10]))
"""


@pytest.mark.parametrize("quantize", ["", "q8_0", "q4_0"])
def test_packing_a_folder_takes_one_copy_of_its_weights(quantize: str, tmp_path: Path) -> None:
    """Above the packed weight: slices of 4 MB of 64 MB on each thread, and what they become."""
    rows = np.random.default_rng(0).integers(0, 0x7C00, (16384, 2048), np.uint16)
    tensors = {"a.weight": ("F16", rows.shape, rows.tobytes()), "warm.weight": ("F16", (16, 32), bytes(1024))}
    folder = write_folder(tmp_path, {"model_type": "llama"}, tensors)
    child = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder), quantize], capture_output=True, text=True, check=True
    )
    packed, before, peak = json.loads(child.stdout)
    assert peak - before <= packed + (24 << 20)


CYCLES = """
import gc, json, resource, sys, threading
import lanner
def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6
def cycle():
    model = lanner.load(sys.argv[1], context=1024)
    def ask(i):
        model.generate([1000 + i] * (50 + i), max_tokens=8, ignore_eos=True, logprobs=2)
    callers = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    loaded = resident_mb()
    model.close()
    del model
    gc.collect()
    return loaded, resident_mb()
print(json.dumps([cycle(), cycle()]))
"""


def test_memory_comes_back_when_a_model_is_closed(smollm2_path: Path) -> None:
    """The first cycle leaves libraries and an allocator's arenas; the second adds nothing to them."""
    child = subprocess.run(
        [sys.executable, "-c", CYCLES, str(smollm2_path)], capture_output=True, text=True, check=True
    )
    (loaded, after_first), (_, after_second) = json.loads(child.stdout)
    assert loaded - after_first > 90  # of 98 MB of weights
    assert after_second - after_first < 5
