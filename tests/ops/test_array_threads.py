"""Operations on arrays from many Python threads at once, and while others want to run."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from harness import EMULATED, bits

from lanner import ops
from reference import random_rows
from rowwise import ROWWISE


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    n = ops.get_threads()
    yield
    ops.set_threads(n)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_many_callers_get_the_bits_of_one(n_threads: int) -> None:
    """Every operation from each of six threads, in orders of their own, on inputs of their own."""
    ops.set_threads(n_threads)
    names = [name for name in ROWWISE if not name.endswith("-17")]
    wanted = {name: bits(ROWWISE[name].run(ROWWISE[name].x)) for name in names}
    start = threading.Barrier(6)

    def caller(seed: int) -> list[str]:
        order = random.Random(seed).sample(names, len(names))
        inputs = {name: ROWWISE[name].x.copy() for name in names}
        start.wait()
        got = {name: bits(ROWWISE[name].run(inputs[name])) for name in order}
        return [name for name in order if got[name].tobytes() != wanted[name].tobytes()]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(caller, range(6))) == [[]] * 6


def test_the_number_of_threads_may_change_meanwhile() -> None:
    x = ROWWISE["softmax-2100"].x
    wanted, running = bits(ops.softmax(x)), True

    def change() -> None:
        while running:
            for n in (1, 4, 2, 3):
                ops.set_threads(n)
                time.sleep(0.0001)

    other = threading.Thread(target=change)
    other.start()
    try:
        for _ in range(100):
            np.testing.assert_array_equal(bits(ops.softmax(x)), wanted)
    finally:
        running = False
        other.join()


# ---- the lock of the interpreter -----------------------------------------------------------------

WIDE = np.linspace(-1, 1, 1 << 23, dtype=np.float32).reshape(1 << 10, -1)
"""(1024, 8192): 32 MB, some ten milliseconds at the bandwidth of one core."""


def long_calls() -> dict[str, Callable[[], object]]:
    """One call of each operation that takes at least ten milliseconds on one thread."""
    q6 = np.resize(random_rows("q6_k", 64, 8192, np.random.default_rng(0)), (1024, 8192 // 256 * 210))
    square = WIDE.reshape(-1, 1024)[:1024]
    q4, wide_q4 = ops.pack(square, "q4_0"), ops.pack(WIDE, "q4_0")
    heads = WIDE.reshape(-1, 64)[: 8 * 1024].reshape(8, 1024, 64)
    return {
        "softmax": lambda: ops.softmax(WIDE),
        "log_softmax": lambda: ops.log_softmax(WIDE),
        "logsumexp": lambda: ops.logsumexp(WIDE),
        "topk": lambda: ops.topk(WIDE, 1000),
        "rms_norm": lambda: ops.rms_norm(WIDE),
        "layer_norm": lambda: ops.layer_norm(WIDE),
        "silu": lambda: ops.silu(WIDE),
        "gelu": lambda: ops.gelu(WIDE),
        "swiglu": lambda: ops.swiglu(WIDE, WIDE),
        "geglu": lambda: ops.geglu(WIDE, WIDE),
        "rope": lambda: ops.rope(WIDE.reshape(8, 128, -1), np.arange(128)),
        "matmul": lambda: ops.matmul(square, square),
        "matmul packed": lambda: ops.matmul(square, q4),
        "sdpa": lambda: ops.sdpa(heads, heads, heads),
        "pack": lambda: ops.pack(WIDE, "q4_0"),
        "unpack": wide_q4.unpack,
        "quantize": lambda: ops.quantize(WIDE, "q8_0"),
        "dequantize": lambda: ops.dequantize(q6, "q6_k"),
    }


def ticks_during(call: Callable[[], object]) -> int:
    """How often another thread ran in the middle of a call."""
    ticks, running = [], True

    def tick() -> None:
        while running:
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    other = threading.Thread(target=tick)
    other.start()
    try:
        begin = time.perf_counter()
        call()
        end = time.perf_counter()
    finally:
        running = False
        other.join()
    # A thread that waits for the lock gets it at the ends of a call in any case.
    margin = (end - begin) / 4
    return sum(begin + margin < t < end - margin for t in ticks)


@pytest.mark.skipif(EMULATED, reason="slow, and the lock is no matter of the instruction set")
def test_others_run_meanwhile() -> None:
    """A call that kept the lock would leave no tick, ever; on a busy machine it may take some calls."""
    ops.set_threads(1)
    kept = [name for name, call in long_calls().items() if not any(ticks_during(call) for _ in range(50))]
    assert not kept


def test_the_ticks_notice_a_lock_that_is_kept() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)  # a thread in Python keeps the lock for so long
    try:
        assert all(ticks_during(lambda: sum(range(10**6))) == 0 for _ in range(3))
    finally:
        sys.setswitchinterval(interval)
