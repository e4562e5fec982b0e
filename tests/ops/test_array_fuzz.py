"""Random calls of every operation: close to float64, and the same bits in any layout on any threads.

LANNER_FUZZ_EXAMPLES sets how many calls are drawn per operation; thousands, for a kernel that is new.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from harness import bits, fewer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calls import CALLS, Call, Results
from lanner import ops
from layouts import READABLE, WRITABLE, Placed, place

EXAMPLES = int(os.environ.get("LANNER_FUZZ_EXAMPLES", fewer(60)))


@pytest.fixture(autouse=True, scope="module")
def _threads() -> Iterator[None]:
    n = ops.get_threads()
    yield
    ops.set_threads(n)


def assert_same_bits(got: Results, wanted: Results) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(bits(a), bits(b))


def run_into(call: Call, arrays: dict[str, np.ndarray], outs: list[Placed]) -> Results:
    """Writes to the placed arrays; the results as copies, and nothing beside them changed."""
    out: Any = tuple(o.array for o in outs) if len(outs) > 1 else outs[0].array
    got = call.run(arrays, out)
    assert all(a is o.array for a, o in zip(got, outs, strict=False))
    copies = tuple(a.copy() for a in got)
    assert all(o.has_kept_its_surroundings() for o in outs), "something beside out was written"
    return copies


@pytest.mark.parametrize("op", CALLS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_call(op: str, data: st.DataObject) -> None:
    call = data.draw(CALLS[op])
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    ops.set_threads(1)
    plain = call.run()
    with np.errstate(all="ignore"):
        call.check(plain)

    ops.set_threads(data.draw(st.integers(1, 4)))
    kinds = {name: data.draw(st.sampled_from(READABLE)) for name in call.arrays}
    placed = {name: place(x, kinds[name], rng, 0xFF) for name, x in call.arrays.items()}
    arrays = {name: p.array for name, p in placed.items()}
    before = [p.memory.copy() for p in placed.values()]
    assert_same_bits(call.run(arrays), plain)
    if call.outs:
        kind = data.draw(st.sampled_from(WRITABLE))
        outs = [place(np.zeros_like(x), kind, rng, 0xA5) for x in plain[: call.outs]]
        assert_same_bits(run_into(call, arrays, outs), plain)
    for p, b in zip(placed.values(), before, strict=True):
        np.testing.assert_array_equal(p.memory, b, "an input changed")
    for name in call.may_be:
        out = place(call.arrays[name], data.draw(st.sampled_from(WRITABLE)), rng, 0xFF)
        assert_same_bits(run_into(call, arrays | {name: out.array}, [out]), plain)


def test_every_operation_is_here() -> None:
    not_on_arrays = {"Packed", "get_threads", "set_threads", "rope_frequencies"}
    assert set(CALLS) == set(ops.__all__) - not_on_arrays
