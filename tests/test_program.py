"""The executor, its interpreter and the builder, on small llamas made of random numbers."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lanner import _core
from reference import FLOATS, Tensor
from stepping import run_step, step_logits
from tiny_llama import IDS, MODELS, VOCAB, Made, make

GOLDEN = Path(__file__).parent / "golden" / "tiny_llama.dump"
ARRAYS = (
    "token_ids",
    "positions",
    "token_seqs",
    "seq_starts",
    "kv_lens",
    "block_tables",
    "output_rows",
    "sampling",
)


@pytest.fixture(scope="module", params=MODELS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(MODELS[request.param], tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(MODELS["heads_of_16"], tmp_path_factory.mktemp("tiny") / "tiny.gguf")


# ---- one arithmetic ------------------------------------------------------------------------------


def test_executor_and_interpreter_agree_bitwise(made: Made) -> None:
    # Two decoders: what one forgot to write to its cache, the other must not have written for it.
    decoders = [made.decoder(n_threads=n) for n in (1, 2, 3, 4)]
    interpreted = made.decoder()
    for n in range(1, 41):
        for outputs in ([n - 1], list(range(n))) if n > 1 else ([0],):
            run_step(interpreted, IDS[:n], 0, outputs)  # fills in the step
            values = interpreted.program.interpret(interpreted.step)
            for decoder in decoders:
                assert run_step(decoder, IDS[:n], 0, outputs)
                r, what = len(outputs), f"{n} tokens, {len(outputs)} outputs, {decoder.n_threads} threads"
                np.testing.assert_array_equal(decoder.logits(r), values["head"], err_msg=what)
                np.testing.assert_array_equal(decoder.sampled(r), values["sample"][:, 0], err_msg=what)


def test_interpreter_fills_the_cache_as_the_executor_does(made: Made) -> None:
    executed, interpreted = made.decoder(n_threads=2), made.decoder()
    for start in range(0, 45, 5):
        run_step(executed, IDS[start : start + 5], start, [4])
        interpreted.step.n_outputs = 1
        for name in ("n_tokens", "n_seqs"):
            setattr(interpreted.step, name, getattr(executed.step, name))
        for name in ARRAYS:
            getattr(interpreted.step, name)[...] = getattr(executed.step, name)
        values = interpreted.program.interpret(interpreted.step)
        np.testing.assert_array_equal(executed.logits(1), values["head"])


@pytest.mark.parametrize("kv_dtype", ["f16", "f32", "q8"])
def test_chunks_and_threads_change_no_bit(made: Made, kv_dtype: str) -> None:
    n, rows = 300, list(range(0, 300, 5))
    decoders = [made.decoder(n_threads=t, kv_dtype=kv_dtype) for t in (1, 2, 4)]
    assert run_step(decoders[0], IDS[:n], 0, rows)
    whole = decoders[0].logits(len(rows)).copy()
    for decoder, chunk in ((decoders[1], 64), (decoders[2], 7), (decoders[1], 4), (decoders[0], 1)):
        got = step_logits(decoder, IDS[:n], chunk)[rows]
        np.testing.assert_array_equal(got, whole, err_msg=f"chunks of {chunk}, {decoder.n_threads} threads")


def test_batch_mates_change_no_bit(made: Made) -> None:
    starts, lengths = (0, 270, 13), (5, 1, 3)
    program = made.decoder(n_threads=2).program
    tables = np.zeros((3, 10), np.int32)
    tables[0, 0], tables[1, :9], tables[2, 0] = 4, np.arange(19, 1, -2), 6

    def run(which: list[int], parts: list[list[int]], first: list[int]) -> np.ndarray:
        step = _core.Step(512, 3, 64, 10)
        at = 0
        for row, (s, ids, start) in enumerate(zip(which, parts, first, strict=True)):
            end = at + len(ids)
            step.token_ids[at:end], step.positions[at:end] = ids, np.arange(start, start + len(ids))
            step.token_seqs[at:end], step.block_tables[row] = row, tables[s]
            step.seq_starts[row + 1], step.kv_lens[row], step.output_rows[row] = (
                end,
                start + len(ids),
                end - 1,
            )
            at = end
        step.n_tokens, step.n_seqs, step.n_outputs = at, len(which), len(which)
        assert program.core.run(step)
        return program.array(program.kept[0], len(which)).copy()

    alone = []
    for s in range(3):
        if starts[s]:
            run([s], [IDS[s : s + starts[s]]], [0])
        alone.append(run([s], [IDS[400 + s : 400 + s + lengths[s]]], [starts[s]])[0])
    parts = [IDS[400 + s : 400 + s + lengths[s]] for s in range(3)]
    for order in ([0, 1, 2], [2, 0, 1]):
        together = run(order, [parts[s] for s in order], [starts[s] for s in order])
        np.testing.assert_array_equal(together, [alone[s] for s in order])


def test_logits_are_close_to_float64(made: Made) -> None:
    decoder = made.decoder(kv_dtype="f32")
    got = step_logits(decoder, IDS[:50], 50).astype(np.float64)
    wanted = made.reference.logits(IDS[:50])
    # float32 against float64 over some thirty operations.
    error = np.abs(got - wanted) / wanted.std()
    if not any(t.fmt not in FLOATS for t in made.reference.weights.values() if isinstance(t, Tensor)):
        assert error.max() < 2e-5
        return
    # Where activations are rounded, a value next to the border of two codes may fall to the other side, and
    # all that follows is rounded anew. Most rows see no such fall; all cost less than the rounding itself.
    assert np.median(error.max(axis=1)) < 5e-4
    exact = replace(made.reference, rounded=False).logits(IDS[:50])
    assert np.sqrt(np.mean((got - wanted) ** 2)) < 0.5 * np.sqrt(np.mean((exact - wanted) ** 2))


# ---- cancellation --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 3])
def test_cancel_stops_between_phases_and_leaves_no_trace(tiny: Made, n_threads: int) -> None:
    decoder = tiny.decoder(n_threads=n_threads)
    wanted = step_logits(decoder, IDS[:64], 64)
    run_step(decoder, IDS[64:128], 0, list(range(64)))
    other = decoder.logits(64).copy()
    decoder.cancel()
    for _ in range(3):
        assert not run_step(decoder, IDS[:64], 0, list(range(64)))
        np.testing.assert_array_equal(decoder.logits(64), other)  # the head was never reached
    decoder.clear_cancel()
    np.testing.assert_array_equal(step_logits(decoder, IDS[:64], 64), wanted)


def test_cancel_from_another_thread(tiny: Made) -> None:
    decoder = tiny.decoder(n_threads=2)
    wanted = step_logits(decoder, IDS[:64], 64)
    for delay in (0.0, 0.001, 0.003):
        timer = threading.Timer(delay, decoder.cancel)
        timer.start()
        while run_step(decoder, IDS[:512], 0, [0]):
            pass
        timer.join()
        decoder.clear_cancel()
        np.testing.assert_array_equal(step_logits(decoder, IDS[:64], 64), wanted)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_a_deadline_stops_between_phases(tiny: Made, n_threads: int) -> None:
    decoder = tiny.decoder(n_threads=n_threads)
    run, step = decoder.program.core.run, decoder.step
    run_step(decoder, IDS[:512], 0, list(range(64)))
    wanted = decoder.logits(64).copy()

    start = time.perf_counter()
    assert run(step, deadline=start + 3600)
    whole = time.perf_counter() - start
    np.testing.assert_array_equal(decoder.logits(64), wanted)

    assert not run(step, deadline=time.perf_counter())
    for part in (0.2, 0.5):
        start = time.perf_counter()
        if not run(step, deadline=start + part * whole):  # a busy machine may make it late, nothing early
            assert time.perf_counter() >= start + part * whole
    assert run(step, deadline=None)  # it held for one run
    np.testing.assert_array_equal(decoder.logits(64), wanted)


# ---- dump and views ------------------------------------------------------------------------------


def test_dump_is_the_golden_one(tiny: Made) -> None:
    dump = tiny.decoder(n_threads=3).program.dump()
    assert dump + "\n" == GOLDEN.read_text()


def test_dump_counts_the_step(tiny: Made) -> None:
    decoder = tiny.decoder()
    run_step(decoder, IDS[:7], 0, [6])
    line = next(x for x in decoder.program.dump(decoder.step).splitlines() if x.startswith("L00.attn.qkv "))
    assert f" {2 * 7 * 160 * 96} FLOP" in line


# ---- doors ---------------------------------------------------------------------------------------

BAD_STEPS = [
    ({"n_tokens": 0}, "n_tokens is 0, wanted 1 to 512"),
    ({"n_tokens": -1}, "n_tokens is -1, wanted 1 to 512"),
    ({"n_tokens": 513}, "n_tokens, n_seqs and n_outputs are 513, 1, 1, room is for 512, 64, 64"),
    ({"n_seqs": 65}, "are 5, 65, 1, room is for"),
    ({"n_seqs": 0}, "0 sequences do not cover the 5 tokens"),
    ({"n_outputs": -1}, "n_outputs is -1, wanted 0 to 64"),
    ({"n_outputs": 65}, "are 5, 1, 65, room is for"),
    ({"seq_starts": (0, 1)}, "1 sequences do not cover the 5 tokens of the step"),
    ({"seq_starts": (1, 4)}, "1 sequences do not cover the 5 tokens of the step"),
    ({"kv_lens": (0, 4)}, "sequence 0 has a kv_len of 4, its table holds 640"),
    ({"kv_lens": (0, 641)}, "sequence 0 has a kv_len of 641, its table holds 640"),
    ({"positions": (2, 3)}, "token 2 has position 3 of sequence 0, wanted 2 of 0"),
    ({"positions": (0, -1)}, "token 0 has position -1 of sequence 0, wanted 0 of 0"),
    ({"token_seqs": (3, 1)}, "token 3 has position 3 of sequence 1, wanted 3 of 0"),
    ({"token_ids": (4, VOCAB)}, "token id 131 is outside the vocabulary of 131"),
    ({"token_ids": (0, -1)}, "token id -1 is outside the vocabulary of 131"),
    ({"block_tables": ((0, 0), 1280)}, "page 1280 of sequence 0 is outside the cache of 1280"),
    ({"block_tables": ((0, 0), -1)}, "page -1 of sequence 0 is outside the cache of 1280"),
    ({"output_rows": (0, 5)}, "output row 5 is outside the 5 tokens of the step"),
    ({"output_rows": (0, -1)}, "output row -1 is outside the 5 tokens of the step"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_STEPS)
def test_bad_steps_are_refused(tiny: Made, changes: dict[str, Any], message: str) -> None:
    decoder = tiny.decoder()
    run_step(decoder, IDS[:5], 0, [4])
    for name, change in changes.items():
        if isinstance(change, int):
            setattr(decoder.step, name, change)
        else:
            getattr(decoder.step, name)[change[0]] = change[1]
    with pytest.raises(ValueError, match=message):
        decoder.run()
    assert run_step(decoder, IDS[:5], 0, [4])


@pytest.mark.parametrize("border", [-1, 0, 5, 6, 2**31 - 1, -(2**31)])
def test_sequences_that_do_not_follow_each_other_are_refused(tiny: Made, border: int) -> None:
    step = _core.Step(8, 2, 1, 20)
    step.n_tokens, step.n_seqs = 5, 2
    step.seq_starts[:], step.kv_lens[:] = (0, border, 5), 5
    step.positions[:5] = np.arange(5)
    with pytest.raises(ValueError, match=r"Program.run: sequence \d has the tokens"):
        tiny.decoder().program.core.run(step)


def test_positions_beyond_the_shortest_table_are_refused() -> None:
    program = _core.Program(4096, 1, 4, 4)
    x = _core.Slot(0, "float32", 8, "tokens")
    for offset in (0, 2, 1):
        table = np.ones((5, 8), np.float32)
        program.add("add_positions", "p", {"x": x, "table": table, "offset": offset, "out": x}, True)
    step = _core.Step(1, 1, 1, 1)
    step.n_tokens, step.positions[0] = 1, 2
    assert program.run(step)
    for position in (3, -1):
        step.positions[0] = position
        with pytest.raises(ValueError, match=f"position {position} of token 0 is outside the table of 3"):
            program.run(step)


def test_step_of_no_outputs(tiny: Made) -> None:
    assert run_step(tiny.decoder(n_threads=2), IDS[:5], 0, [])


def test_program_refuses_what_an_operation_refuses(tiny: Made) -> None:
    program = _core.Program(4096, 1, 4, 4)
    slot = _core.Slot(0, "float32", 8, "tokens")
    values = {"x": slot, "weight": np.ones(9, np.float32), "out": slot, "eps": 1.0}
    with pytest.raises(ValueError, match="rms_norm: weight has 9 elements, x has 8 columns"):
        program.add("rms_norm", "n", values, False)
    with pytest.raises(ValueError, match="there is no operation named 'norm'"):
        program.add("norm", "n", values, False)
    with pytest.raises(ValueError, match="rms_norm: x is float64, wanted float32"):
        program.add("rms_norm", "n", values | {"x": _core.Slot(0, "float64", 8, "tokens")}, False)
    array = _core.Buffer(np.ones((4, 8), np.float32), "tokens")
    with pytest.raises(ValueError, match="rms_norm: x is a Buffer, wanted a Slot"):
        program.add("rms_norm", "n", values | {"x": array}, False)
    x = _core.Slot(0, "float32", 4, "tokens")
    with pytest.raises(ValueError, match="add_positions: offset is 5, table has 5 rows"):
        program.add(
            "add_positions", "p", {"x": x, "table": np.ones((5, 4), np.float32), "offset": 5, "out": x}, False
        )
    for arguments in ((64, 0, 1, 1), (64, 256, 1, 1), (64, 1, 0, 1), (64, 1, 1, 0)):
        with pytest.raises(ValueError, match="Program: "):
            _core.Program(*arguments)


# ---- times ---------------------------------------------------------------------------------------


def test_profile_has_every_instruction_of_every_thread_in_order(made: Made) -> None:
    decoder = made.decoder(n_threads=3)
    phase = np.array([i.phase for i in decoder.program.instructions])
    decoder.program.core.enable_profile(True)
    for ids in (IDS[:1], IDS[:30]):  # replicated operations, and shared ones
        before = time.perf_counter_ns()
        assert run_step(decoder, ids, 0, [len(ids) - 1])
        after = time.perf_counter_ns()
        (step,) = decoder.program.core.take_profile()
        assert before <= step.called_ns <= step.begin_ns <= step.end_ns <= step.left_ns <= after
        assert (step.n_tokens, step.n_seqs, step.n_outputs, step.is_complete) == (len(ids), 1, 1, True)
        assert len(step.spans) == 3
        for spans in step.spans:
            assert spans.dtype == np.int64 and spans.shape[1:] == (3,)
            edges = spans[:, 1:].reshape(-1)
            assert (np.diff(edges) >= 0).all()
            assert not len(edges) or (step.begin_ns <= edges[0] and edges[-1] <= step.end_ns)
            assert (np.diff(phase[spans[:, 0]]) >= 0).all()
        computed = np.concatenate([spans[:, 0] for spans in step.spans])
        assert set(computed) == set(range(len(phase)))
        # A barrier: nothing of a phase begins before all of the one before has ended.
        spans = np.concatenate(step.spans)
        begins = [spans[phase[spans[:, 0]] == p, 1].min() for p in range(phase[-1] + 1)]
        ends = [spans[phase[spans[:, 0]] == p, 2].max() for p in range(phase[-1] + 1)]
        assert all(end <= begin for end, begin in zip(ends[:-1], begins[1:], strict=True))
        costs = [decoder.program.core.cost(i, decoder.step) for i in range(len(phase))]
        np.testing.assert_array_equal(step.costs, costs)


def test_profile_is_off_unless_enabled(tiny: Made) -> None:
    decoder = tiny.decoder(n_threads=2)
    core = decoder.program.core
    for on, n_steps in ((False, 0), (True, 2), (False, 0)):
        core.enable_profile(on)
        run_step(decoder, IDS[:5], 0, [4])
        run_step(decoder, IDS[:5], 0, [4])
        assert len(core.take_profile()) == n_steps
    core.enable_profile(True)
    with pytest.raises(ValueError, match="n_tokens is 0"):
        run_step(decoder, [], 0, [])
    core.cancel()
    assert not run_step(decoder, IDS[:5], 0, [4])
    (stopped,) = core.take_profile()  # the one that was refused left nothing
    assert not stopped.is_complete and stopped.spans[0][:, 0].max() < len(decoder.program.instructions) - 1
