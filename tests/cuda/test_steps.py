"""Steps of the whole decoder that are less usual: windows, no outputs, many sequences, many splits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from decoding import IDS, PAGES, check_ids, check_logits, run
from lanner.cuda.decoder import CudaDecoder
from on_device import ON_DEVICE
from oracle import Oracle

pytestmark = pytest.mark.usefixtures("gpu")

GEMMA = {
    "architecture": "gemma3",
    "settings": {"attention.sliding_window": 40, "attention.sliding_window_pattern": 2},
}
"""A layer that sees 40 positions, then one that sees all."""


def test_layers_with_a_window_give_pages_back(made: Callable[..., CudaDecoder]) -> None:
    """Pages behind the window point nowhere, and another sequence has one of them."""
    decoder = made(**GEMMA)
    assert [group.window for group in decoder.page_groups] == [0, 40]
    oracle = Oracle(decoder)
    of_all = [9, 2, 5, 0, 3]
    for start, end, of_window in ((0, 100, [2, 7, 4, 5]), (100, 130, [-1, 7, 4, 5, 6])):
        logits, _ = run(decoder, (start, IDS[start:end], [of_all, of_window]))
        check_logits(logits[0], oracle, IDS[:end])
    logits, _ = run(decoder, (0, IDS[40:70], [[1], [2]]))
    check_logits(logits[0], oracle, IDS[40:70])
    for n in range(130, 132):
        one, other = n - 100, 40 + n - 100
        chunks = (
            (n, IDS[n : n + 1], [of_all, [-1, -1, 4, 5, 6]]),
            (one, IDS[other : other + 1], [[1], [2]]),
        )
        logits, ids = run(decoder, *chunks)
        check_logits(logits[0], oracle, IDS[: n + 1])
        check_logits(logits[1], oracle, IDS[40 : other + 1])
        check_ids(logits, ids)


def test_steps_without_outputs(made: Callable[..., CudaDecoder]) -> None:
    """A part of a prompt and a decoding token whose logits nobody wants leave their keys and values."""
    decoder = made()
    for start, end in ((0, 40), (40, 41), (41, 42)):
        logits, ids = run(decoder, (start, IDS[start:end], PAGES[0]), wanted=False)
        assert logits.shape[0] == 0 and list(ids) == []
    logits, ids = run(decoder, (42, IDS[42:43], PAGES[0]))
    check_logits(logits[0], Oracle(decoder), IDS[:43])
    check_ids(logits, ids)


def test_more_sequences_than_a_graph_has(made: Callable[..., CudaDecoder]) -> None:
    """All of them decode, in launches for a step of any kind."""
    decoder = made()
    oracle = Oracle(decoder)
    n = 35
    for turn in range(2):
        logits, ids = run(decoder, *((turn, [IDS[s + 40 * turn]], [n - 1 - s]) for s in range(n)))
        for s in range(n):
            check_logits(logits[s], oracle, [IDS[s], IDS[s + 40]][: turn + 1])
        check_ids(logits, ids)
    assert decoder.program.core.n_graphs == 0


def test_attention_of_several_splits(made: Callable[..., CudaDecoder], gpu: Any) -> None:
    """On a GPU of many multiprocessors blocks share the keys of a sequence, and the last merges."""
    gpu.emulator.configure(checks=True, n_sms=64)
    decoder = made()
    oracle = Oracle(decoder)
    run(decoder, (0, IDS[:170], [9, 2, 5, 0, 3, 7]))
    for n in (170, 171):  # directly, then as a graph
        logits, ids = run(decoder, (n, IDS[n : n + 1], [9, 2, 5, 0, 3, 7]))
        check_logits(logits[0], oracle, IDS[: n + 1])
        check_ids(logits, ids)
    if not ON_DEVICE:
        grids: list[Any] = []
        gpu.emulator.set_interpreter(
            lambda launch: grids.append(launch["grid"]) if "attention_decode" in launch["symbol"] else None
        )
        run(decoder, (172, IDS[172:173], [9, 2, 5, 0, 3, 7]))
        gpu.emulator.set_interpreter(None)
        assert grids and all(grid[1] > 1 for grid in grids)
