from __future__ import annotations

import numpy as np
import pytest

import toolkit
from attending import Attention, Case
from ptx.interpreter import Module, as_callback
from ptx.statistics import Statistics

LENGTHS = [(64, n) for n in (1, 31, 32, 33, 77, 200, 300)] + [(128, 31), (128, 200), (256, 33), (256, 77)]
GROUPS = [(64, (1, 1)), (64, (3, 3)), (64, (4, 2)), (64, (7, 1)), (64, (16, 2)), (128, (4, 1)), (256, (8, 1))]


def attend(cuda, case, **launches):
    attention = Attention(cuda, case)
    return attention.decode(**launches) if launches else attention.prefill()


@pytest.mark.parametrize(("dim", "n"), LENGTHS)
def test_prompt(cuda, everywhere, dim, n):
    case = Case([(n, n)], heads=(2, 1), dim=dim, seed=n)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize(("dim", "heads"), GROUPS)
def test_groups(cuda, everywhere, dim, heads):
    case = Case([(50, 50), (3, 3)], heads=heads, dim=dim)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize(("dim", "causal"), [(64, True), (128, False), (256, False)])
def test_unlike_sequences(cuda, everywhere, dim, causal):
    lengths = [(33, 33), (1, 1), (90, 90), (64, 64), (7, 7)]
    case = Case(lengths, dim=dim, causal=causal)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize("dim", [64, 128, 256])
def test_chunks_and_tokens_in_one_step(cuda, everywhere, dim):
    case = Case([(170, 20), (200, 1), (97, 33), (65, 1), (64, 16)], heads=(3, 1), dim=dim)
    case.check(everywhere(lambda: attend(cuda, case)))


def test_many_sequences(cuda, everywhere):
    case = Case([(1 + 5 * i % 40, 1 + i % 2 * (5 * i % 40 > 0)) for i in range(70)], heads=(1, 1))
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize(("dim", "window"), [(64, 1), (64, 20), (64, 64), (64, 100), (128, 20), (256, 40)])
def test_window(cuda, everywhere, dim, window):
    case = Case([(150, 150), (230, 30), (250, 1)], heads=(1, 1), dim=dim, window=window)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize("dim", [64, 256])
@pytest.mark.parametrize("softcap", [5.0, 50.0])
def test_softcap(cuda, everywhere, dim, softcap):
    case = Case([(70, 70), (90, 20)], dim=dim, softcap=softcap, spread=8)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize("spread", [0.0, 10.0, 60.0])
def test_sharp_and_flat(cuda, everywhere, spread):
    case = Case([(150, 150), (150, 1)], spread=spread)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize("dim", [64, 128])
def test_rows_keep_their_bits(cuda, fibers, dim):
    """However a prompt is cut, and whatever is beside it; in blocks of 64 rows and of 128."""
    whole = Case([(200, 200)], heads=(4, 1), dim=dim)
    fibers.emulator.configure(n_sms=1)
    expected = attend(fibers, whole)
    fibers.emulator.configure(n_sms=64)
    np.testing.assert_array_equal(attend(fibers, whole), expected)
    part = Case([(200, 9), (40, 40)], heads=(4, 1), dim=dim)
    part.keys[0], part.values[0], part.q[:9] = whole.keys[0], whole.values[0], whole.q[191:]
    np.testing.assert_array_equal(attend(fibers, part)[:9], expected[191:])
    assert fibers.emulator.report() == []


@pytest.mark.parametrize(("dim", "n"), LENGTHS)
def test_decode(cuda, everywhere, dim, n):
    case = Case([(n, 1)], heads=(2, 1), dim=dim, seed=n)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1)))


@pytest.mark.parametrize(("dim", "heads"), [*GROUPS, (64, (20, 1))])
def test_decode_groups(cuda, everywhere, dim, heads):
    case = Case([(300, 1), (5, 1)], heads=heads, dim=dim)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1), n_sms=64))


@pytest.mark.parametrize(("dim", "n_sms"), [(64, 1), (64, 16), (64, 200), (128, 16), (256, 200)])
def test_decode_splits(cuda, everywhere, dim, n_sms):
    case = Case([(500, 1), (129, 1), (1, 1), (64, 1), (400, 1)], heads=(2, 1), dim=dim, spare=1)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=2), n_sms=n_sms))


def test_decode_in_most_splits(cuda, everywhere):
    """64 splits of five pages."""
    case = Case([(64 * 5 * 32 - 7, 1)], heads=(1, 1), spare=0)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1), n_sms=200))


@pytest.mark.parametrize(("dim", "window"), [(64, 1), (64, 20), (64, 100), (64, 1000), (128, 64), (256, 200)])
def test_decode_window(cuda, everywhere, dim, window):
    case = Case([(290, 1), (400, 1), (30, 1)], heads=(2, 1), dim=dim, window=window)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1), n_sms=64))


@pytest.mark.parametrize("softcap", [5.0, 50.0])
def test_decode_softcap(cuda, everywhere, softcap):
    case = Case([(300, 1)], heads=(8, 1), dim=256, softcap=softcap, spread=8)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1), n_sms=64))


@pytest.mark.parametrize("kind", ["prefill", "decode"])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_traffic(fibers, dim, kind):
    """Of the PTX: no two lanes meet in a bank, no sector is read in part, and a key once for its group."""
    n = 320 if kind == "decode" else 96
    case = Case([(n, 1 if kind == "decode" else n)], heads=(4, 1), dim=dim, spare=0)
    attention = Attention(fibers, case)
    statistics = Statistics()
    module = Module(toolkit.ptx(toolkit.CSRC / f"cuda/attention_{kind}.cuh"))
    fibers.emulator.configure(n_sms=1)  # prefill: 128 rows in a block
    fibers.emulator.set_interpreter(as_callback([module], fibers.emulator.allocations, statistics))
    try:
        case.check(getattr(attention, kind)())
    finally:
        fibers.emulator.set_interpreter(None)
    shared = statistics.total(statistics.shared)
    assert shared.accesses > 0
    assert shared.units == shared.ideal
    assert all(t.units == t.ideal for t in statistics.stores.values())
    copies = statistics.total({text: t for text, t in statistics.loads.items() if "cp.async" in text})
    assert copies.units == copies.ideal
    if kind == "decode":
        assert copies.n_bytes == 2 * n * dim * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 96}, "head_dim is 96, wanted 64, 128 or 256"),
        ({"n_heads": 5}, "n_heads is 5"),
        ({"q_stride": 12}, "q_stride is 12"),
        ({"page_bytes": 64}, "page_bytes is 64"),
        ({"scale": 0.0}, "scale is 0"),
        ({"window": -1}, "window is -1"),
        ({"causal": False, "window": 4}, "window is 4, wanted 0"),
        ({"q": None}, "q is missing"),
    ],
)
def test_arguments_are_checked(fibers, change, message):
    attention = Attention(fibers, Case([(5, 1)]))
    attention.args |= change
    with pytest.raises(ValueError, match=message):
        attention.prefill()


def test_workspace_is_checked(fibers):
    attention = Attention(fibers, Case([(700, 1)]))
    fibers.emulator.configure(n_sms=64)
    with pytest.raises(ValueError, match=r"workspace has 0 bytes, wanted [1-9]"):
        fibers.ops.attention_decode(attention.bounds, out=attention.out().array, **attention.args)
