from __future__ import annotations

import numpy as np
import pytest

from attending import Attention, Case

LENGTHS = (1, 31, 32, 33, 77, 200, 300)


def attend(cuda, case, **launches):
    attention = Attention(cuda, case)
    return attention.decode(**launches) if launches else attention.prefill()


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("n", LENGTHS)
def test_prompt(cuda, everywhere, dim, n):
    case = Case([(n, n)], heads=(2, 1), dim=dim, seed=n)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("heads", [(1, 1), (3, 3), (4, 2), (4, 1), (7, 1), (16, 2)])
def test_groups(cuda, everywhere, heads, dim):
    case = Case([(50, 50), (3, 3)], heads=heads, dim=dim)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("causal", [True, False])
def test_unlike_sequences(cuda, everywhere, dim, causal):
    lengths = [(33, 33), (1, 1), (130, 130), (64, 64), (7, 7)]
    case = Case(lengths, dim=dim, causal=causal)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize("dim", [64, 128, 256])
def test_chunks_and_tokens_in_one_step(cuda, everywhere, dim):
    case = Case([(170, 40), (200, 1), (97, 33), (65, 1), (128, 64)], heads=(6, 2), dim=dim)
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize("n_sequences", [31, 33, 70])
def test_many_sequences(cuda, everywhere, n_sequences):
    case = Case([(1 + 5 * i % 40, 1 + i % 2 * (5 * i % 40 > 0)) for i in range(n_sequences)], heads=(2, 2))
    case.check(everywhere(lambda: attend(cuda, case)))


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("window", [1, 20, 64, 100])
def test_window(cuda, everywhere, dim, window):
    case = Case([(190, 190), (230, 30), (250, 1)], heads=(2, 1), dim=dim, window=window)
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


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("n", LENGTHS)
def test_decode(cuda, everywhere, dim, n):
    case = Case([(n, 1)], heads=(2, 1), dim=dim, seed=n)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1)))


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("heads", [(1, 1), (2, 2), (4, 2), (4, 1), (7, 1), (8, 1), (20, 1)])
def test_decode_groups(cuda, everywhere, heads, dim):
    case = Case([(300, 1), (5, 1)], heads=heads, dim=dim)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1), n_sms=64))


@pytest.mark.parametrize("n_sms", [1, 16, 200])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_decode_splits(cuda, everywhere, dim, n_sms):
    case = Case([(700, 1), (129, 1), (1, 1), (64, 1), (500, 1)], dim=dim, spare=1)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=2), n_sms=n_sms))


def test_decode_in_most_splits(cuda, everywhere):
    case = Case([(8300, 1)], heads=(1, 1), dim=64, spare=0)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1), n_sms=200))


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("window", [1, 20, 64, 100, 1000])
def test_decode_window(cuda, everywhere, dim, window):
    case = Case([(290, 1), (400, 1), (30, 1)], heads=(2, 1), dim=dim, window=window)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1), n_sms=64))


@pytest.mark.parametrize("softcap", [5.0, 50.0])
def test_decode_softcap(cuda, everywhere, softcap):
    case = Case([(300, 1)], heads=(8, 1), dim=256, softcap=softcap, spread=8)
    case.check(everywhere(lambda: attend(cuda, case, n_launches=1), n_sms=64))


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_no_bank_conflicts(fibers, dim, decode):
    case = Case([(200, 1 if decode else 200)], heads=(4, 1), dim=dim)
    attention = Attention(fibers, case)
    for n_sms in (1, 64):
        fibers.emulator.configure(count_banks=True, n_sms=n_sms)
        fibers.emulator.counters()
        (attention.decode if decode else attention.prefill)()
        counted = fibers.emulator.counters()
        assert counted["shared_wavefronts"] > 0
        assert counted["shared_wavefronts_beyond"] == 0


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
    with pytest.raises(ValueError, match="workspace has 0 bytes, wanted [1-9]"):
        fibers.ops.attention_decode(attention.bounds, out=attention.out().array, **attention.args)
