"""The benchmarks of `lanner.ops`: what they cover, whether contenders do the same work, and noise."""

from __future__ import annotations

import importlib.util
import json
import math
import statistics

import numpy as np
import pytest

from lanner import _core, cli, ops
from lanner.bench import machine, measure, ops_command, report
from lanner.bench.cases import CASES, UNTIMED, Case, array_bytes, blocks, matmul, rows, selected
from lanner.bench.contenders import OURS, contenders, package, random_blocks
from lanner.bench.machine import Limits, Usage, disturbances, unsteady
from lanner.bench.measure import Comparison, Effort, Turns, finish
from lanner.bench.results import Result, Run, as_json, from_json
from lanner.ops._quantization import FORMATS

EACH = list(
    {
        (case.op, *case.dtypes.values(), *case.options.values()): case
        for case in sorted(CASES, key=lambda case: -case.n_flops)
        if case.n_bytes < 50e6
    }.values()
)
"""The least case of every combination of operation, types and options."""


@pytest.fixture(autouse=True)
def threads_of_before():
    before = ops.get_threads()
    yield
    ops.set_threads(before)


def result(case: Case = CASES[0], ours=(1.0,), noise=(), limit_then=1e12, **peers) -> Result:
    samples = {OURS: list(ours), **peers}
    return Result(measure.described(case), samples, 1e12, limit_then, False, list(noise))


# ---- cases ---------------------------------------------------------------------------------------


def test_every_operation_has_a_case_or_is_no_work() -> None:
    assert {case.op for case in CASES} | UNTIMED == set(ops.__all__)
    assert not {case.op for case in CASES} & UNTIMED


def test_names_are_unique_and_goals_are_known() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {goal for case in CASES for goal in case.goals} <= {"limit", "numpy", "torch"}
    assert all(set(case.shapes) == set(case.dtypes) for case in CASES)


def test_weights_that_one_row_streams_are_larger_than_any_cache() -> None:
    streamed = [case for case in CASES if case.op == "matmul" and case.goals.keys() == {"limit", "torch"}]
    assert {case.dtypes["w"] for case in streamed} >= {"f32", "f16", "q8_0", "q6_k", "q5_k", "q4_0", "q4_k"}
    assert all(case.shapes["x"][0] == 1 and case.n_bytes >= 128e6 for case in streamed)


@pytest.mark.parametrize("case", [c for c in EACH if c.op not in ("logsumexp", "topk", "pack")], ids=str)
def test_shapes_and_dtypes_are_those_of_the_call(case: Case) -> None:
    made = contenders(case)[OURS]()
    name = "blocks" if case.op == "quantize" else "out"
    assert made.nbytes == array_bytes(case.shapes[name], case.dtypes[name])
    assert made.shape[:-1] == case.shapes[name][:-1]


def test_flops_by_hand() -> None:
    assert matmul(3, 5, 7).n_flops == 2 * 3 * 5 * 7
    assert matmul(3, 5, 7, "f16").n_bytes == 4 * 21 + 2 * 35 + 4 * 15
    assert matmul(1, 2, 64, "q4_0").n_bytes == 4 * 64 + 2 * 2 * 18 + 4 * 2
    prompt = next(case for case in CASES if case.name == "sdpa prefill 128x128 8over8 d64")
    assert prompt.n_flops == 8 * (128 * 129 // 2) * 2 * (64 + 64)
    window = next(case for case in CASES if case.options.get("window"))
    n, w = window.shapes["q"][2], window.options["window"]
    assert window.n_flops == 4 * 4 * 256 * sum(min(i + 1, w) for i in range(n))


def test_filters() -> None:
    assert {case.op for case in selected(("SOFTMAX 1x",))} == {"softmax", "log_softmax"}
    assert selected() == list(CASES)
    with pytest.raises(ValueError, match=r"no case has 'convolve' in its name; operations: matmul, sdpa, "):
        selected(("convolve",))


# ---- contenders ----------------------------------------------------------------------------------


SIXTEEN_BITS = {"f16", "bf16", "float16"}


def numpy_has(case: Case) -> bool:
    """No erf, no windows, no product of 16-bit numbers; blocks are those of the `gguf` package."""
    if case.op == "matmul":
        return case.dtypes["w"] == "f32"
    lacks_erf = case.op in ("gelu", "geglu") and case.options["approximate"] == "none"
    is_float32 = not SIXTEEN_BITS & set(case.dtypes.values()) or case.op == "quantize"
    return is_float32 and not lacks_erf and case.op != "pack" and case.options.get("window") is None


def torch_has(case: Case) -> bool:
    """No windows, no blocks of GGUF, and of the quantized weights those of test_torch_multiplies_..."""
    is_float = case.dtypes.get("w", "f32") in ("f32", "f16", "bf16")
    return is_float and case.family != "quantization" and case.options.get("window") is None


def assert_same_work(case: Case, peer: str, torch=None) -> None:
    """Within what float32 rounds, or half the digits of a 16-bit type: the same work, not its accuracy."""
    if "blocks" in case.shapes:  # the `gguf` package takes its time
        case = blocks(case.op, 16, case.shapes["blocks"][1], case.options["format"])
    calls = contenders(case, torch)
    wanted = np.array(calls[OURS](), np.float64)
    got = calls[peer]()
    got = np.array(got if isinstance(got, np.ndarray) else got.float().numpy(), np.float64)
    assert got.shape == wanted.shape
    largest = np.abs(wanted).max()
    is_rounded = SIXTEEN_BITS & set(case.dtypes.values())
    np.testing.assert_allclose(got, wanted, atol=largest * (2e-2 if is_rounded else 2e-5))


@pytest.mark.parametrize("case", [c for c in EACH if numpy_has(c)], ids=str)
def test_numpy_does_the_same_work(case: Case) -> None:
    assert_same_work(case, "numpy")


@pytest.mark.oracle
@pytest.mark.parametrize("case", [c for c in EACH if torch_has(c)], ids=str)
def test_torch_does_the_same_work(case: Case) -> None:
    assert_same_work(case, "torch", pytest.importorskip("torch"))


@pytest.mark.oracle
@pytest.mark.parametrize("fmt", ["q4_0", "q8_0"])
def test_torch_multiplies_quantized_weights(fmt: str) -> None:
    torch = pytest.importorskip("torch")
    calls = contenders(matmul(3, 4096 + 64, 64, fmt), torch)
    assert calls["torch"]().shape == calls[OURS]().shape == (3, 4160)


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f not in ("f32", "f16", "bf16")])
def test_random_blocks_are_finite_and_varied(fmt: str) -> None:
    values = ops.dequantize(random_blocks(fmt, 4, 1024), fmt)
    assert np.isfinite(values).all()
    assert len(np.unique(values)) > 100


# ---- turns ---------------------------------------------------------------------------------------


def test_contenders_alternate(monkeypatch) -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in (OURS, "numpy", "torch")}
    monkeypatch.setattr(measure, "contenders", lambda case, torch: calls)
    monkeypatch.setattr(measure, "settle", lambda: None)
    monkeypatch.setattr(Turns, "_repeats", staticmethod(lambda call, turn_s: 2))
    limits = Limits(1, quick=True)
    monkeypatch.setattr(limits, "probe", lambda names: limits.probes["copy"].append(1e9))
    case = rows("softmax", 4, 16)
    comparison = Comparison(case, limits, Effort(2, 0.0))
    assert order == list(calls)  # once each: what works?
    order.clear()
    for _ in range(2):
        comparison.peers()
        comparison.ours()
    # Each turn is a call that nobody times, then two.
    assert order == (["numpy"] * 3 + ["torch"] * 3 + [OURS] * 3) * 2
    assert {name: len(samples) for name, samples in comparison.samples.items()} == dict.fromkeys(calls, 2)
    assert comparison.result().limit_rate == 1e9


def test_a_turn_is_filled_with_calls() -> None:
    turns = Turns({OURS: lambda: sum(range(1000))}, 0.01)
    assert turns.repeats[OURS] > 10
    assert 1e-7 < turns.take(OURS) < 1e-2


def test_ratio_compares_neighbours_in_time() -> None:
    # The machine slows down fourfold: the medians alone would say 2.
    r = result(
        ours=(1.0, 1.0, 4.0, 4.0, 4.0), numpy=[2.0, 2.0, 8.0, 8.0, 9.0], torch=[0.5, 0.5, 2.0, 2.0, 2.0]
    )
    assert r.ratio("numpy") == 2.0
    assert r.ratio("torch") == 0.5
    assert r.seconds() == statistics.median((1.0, 1.0, 4.0, 4.0, 4.0))


def test_share_and_goals() -> None:
    square = matmul(10, 10, 10, goals={"limit": 0.85, "torch": 1.0, "numpy": 1.0})
    r = result(square, ours=[1e-9], torch=[0.9e-9])  # 1000 multiply-adds in 1 ns are all of 1e12 per second
    assert math.isclose(r.share, 1.0)
    assert r.reached == {"limit": r.share, "torch": pytest.approx(0.9)}
    assert report.missed(r) == ["torch 0.90 of 1"]
    row = rows("softmax", 1, 1000)
    assert math.isclose(result(row, ours=[16e-9]).share, 8000 / 16e-9 / 1e12)


# ---- noise ---------------------------------------------------------------------------------------


def used(wall=10.0, busy=10.0, stolen=0.0, own=10.0) -> Usage:
    return Usage(wall, busy, stolen, own)


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (used(), []),
        (used(busy=10.9), []),  # 4.5 % of two processors
        (used(busy=12.0), ["other programs used 10% of the machine"]),
        (used(wall=0.1, busy=0.12, own=0.1), []),  # two ticks of the clock
        (used(busy=0.0, own=10.0), []),  # a system that does not tell
        (used(stolen=0.1), []),
        (used(stolen=1.0), ["5% of the machine was stolen by its host"]),
    ],
)
def test_disturbances(usage: Usage, found: list[str]) -> None:
    assert disturbances(usage, 2) == found


def test_usage_counts_this_process_and_others() -> None:
    before = Usage.now()
    sum(i for i in range(3_000_000))
    spent = Usage.now().since(before)
    assert 0 < spent.own <= spent.wall * 1.5
    assert spent.busy >= 0 and spent.stolen >= 0


def test_limits_that_moved() -> None:
    assert unsteady({"read": [10.0, 9.5], "copy": [], "fma": [2.0, 1.0]}) == [
        "the fma limit fell to 50% of its best during the run"
    ]


def limits_of(rates: dict[str, list[float]]) -> Limits:
    limits = Limits(1, quick=True)
    limits.probes = rates
    return limits


def test_a_case_is_held_against_the_best_of_the_run() -> None:
    limits = limits_of({"read": [1.0], "copy": [1e12, 2e12, 1.9e12], "fma": [1.0]})
    softmax = rows("softmax", 4, 16)
    slow, good = result(softmax, limit_then=1e12), result(softmax, limit_then=1.9e12)
    run = finish(limits, [slow, good], load=0.5)
    assert [r.limit_rate for r in run.results] == [2e12, 2e12]
    assert run.results[0].noise == ["the machine did 50% of its limit beside it"]
    assert run.results[1].noise == []
    assert run.noise == [
        "the copy limit fell to 50% of its best during the run",
        "1 of 2 cases were disturbed",
    ]


def test_a_busy_machine_is_told_in_the_table(capsys) -> None:
    quiet = limits_of({"read": [1.0], "copy": [1e12], "fma": [1.0]})
    case = rows("softmax", 4, 16)
    report.show(finish(quiet, [result(case)], load=0.5), report.console())
    assert "NOISY" not in capsys.readouterr().out
    report.show(finish(quiet, [result(case, noise=["x"])], load=1.5), report.console())
    out = capsys.readouterr().out
    assert "NOISY MACHINE: these figures are not to be trusted" in out
    assert "the load average was 1.5 at the start" in out
    assert "softmax 4x16: x" in out


def test_a_long_tail_is_noise(monkeypatch) -> None:
    monkeypatch.setattr(measure, "contenders", lambda case, torch: {OURS: lambda: None})
    limits = limits_of({"read": [1.0], "copy": [1.0], "fma": [1.0]})
    monkeypatch.setattr(limits, "probe", lambda names: None)
    monkeypatch.setattr(measure, "disturbances", lambda used: [])
    comparison = Comparison(rows("softmax", 4, 16), limits, Effort(10, 0.0))
    comparison.samples[OURS] = [1.0] * 9 + [9.0]  # one in ten is no tail
    assert comparison.result().noise == []
    comparison.samples[OURS] = [1.0] * 8 + [1.4, 9.0]
    assert comparison.result().noise == ["a tenth of our calls took more than 1.40 times the median"]


# ---- the machine ---------------------------------------------------------------------------------


def test_peers_are_not_restricted(monkeypatch) -> None:
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    child = machine.environment(2)
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_NUM_THREADS", "GOMP_SPINCOUNT"} & child.keys()
    assert child["OPENBLAS_NUM_THREADS"] == child["OMP_NUM_THREADS"] == "2"
    assert child["PATH"]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_copy_probe(n_threads: int) -> None:
    # Between a very slow machine and physical limits of a server: a wrong unit falls outside.
    assert 2e8 < _core.probe_copy_bandwidth(n_threads, 1 << 22, 1) < 5e12
    assert _core.probe_copy_bandwidth(n_threads, 4096) > 0


@pytest.mark.parametrize("arguments", [(0, 4096, 1), (1, 4095, 1), (1, 4096, 0), (256, 4096, 1)])
def test_copy_probe_refuses(arguments) -> None:
    with pytest.raises(ValueError, match="probe_copy_bandwidth: n_threads"):
        _core.probe_copy_bandwidth(*arguments)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_measures_and_writes(tmp_path, capsys) -> None:
    path = tmp_path / "ops.json"
    args = ["bench", "ops", "--quick", "--filter", "softmax 1x262144", "--threads", "1", "--json", str(path)]
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "softmax 1x262144" in out
    assert "GB/s" in out and "vs numpy" in out
    stored = json.loads(path.read_text())
    assert stored["schema"] == 1
    (run,) = stored["runs"]
    assert run["n_threads"] == 1 and run["isa"] == _core.isa()
    assert set(run["limits"]) == set(run["probes"]) == {"read", "copy", "fma"}
    assert all(rate > 1e7 for rate in run["limits"].values())
    (one,) = run["results"]
    assert one["case"]["name"] == "softmax 1x262144"
    assert one["case"]["n_bytes"] == 2 * 4 * 262144
    assert (
        set(one["samples"])
        == set(one["seconds"])
        == {OURS, "numpy"} | ({"torch"} if package("torch") else set())
    )
    assert all(len(times) == measure.QUICK.rounds for times in one["samples"].values())
    assert one["ratios"]["numpy"] > 0
    assert math.isclose(one["gb_per_s"] * 1e9 * one["seconds"][OURS], one["case"]["n_bytes"])
    assert math.isclose(one["share_of_limit"] * one["limit_rate"], one["gb_per_s"] * 1e9)
    (again,) = from_json(stored)
    assert isinstance(again, Run) and as_json([again]) == stored


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["ops", "--filter", "convolve"], 1, "no case has 'convolve' in its name"),
        (["ops", "--json", "/no/such/folder/x.json"], 1, "/no/such/folder: no such folder"),
        (["ops", "--threads", "0"], 2, "'0' given, wanted a whole number from 1 to 255"),
        (["kernels"], 2, "invalid choice: 'kernels'"),
        ([], 2, "the following arguments are required: WHAT"),
    ],
)
def test_errors_come_before_any_measurement(monkeypatch, capsys, args, code, message) -> None:
    monkeypatch.setattr(ops_command, "run_worker", lambda *_: pytest.fail("it measured"))
    assert cli.main(["bench", *args]) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["bench", "ops", "--plot", "x.png"]) == 1
    assert capsys.readouterr().err == "lanner bench: --plot needs matplotlib: pip install 'lanner[plot]'\n"


def test_a_worker_that_fails_says_why() -> None:
    with pytest.raises(ops_command.WorkerError, match="no case has 'convolve'"):
        ops_command.run_worker(1, ("convolve",), quick=True)


def test_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="the file has schema 7, wanted 1"):
        from_json({"schema": 7, "runs": []})


# ---- the picture ---------------------------------------------------------------------------------


def pictured(n_threads: int) -> Run:
    """A run in which every case reaches a share of its limit; peers half of that."""
    limits = {"read": 15e9 * n_threads, "copy": 18e9 * n_threads, "fma": 50e9 * n_threads}
    rng = np.random.default_rng(0)
    results = []
    for case in CASES:
        work = case.n_flops / 2 if case.limit == "fma" else case.n_bytes
        seconds = work / limits[case.limit] / rng.uniform(0.3, 0.95)
        results.append(result(case, ours=[seconds], numpy=[2 * seconds], torch=[3 * seconds]))
    probes = {name: [rate] for name, rate in limits.items()}
    return Run(n_threads, "a processor", "avx2", {"lanner": "0"}, limits, probes, [], results)


def test_roofline(tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    from lanner.bench import plot
    from lanner.bench.plot import COLOURS, draw, roofline

    assert {case.family for case in CASES} == set(COLOURS)
    figure = draw([pictured(1), pictured(2)])
    monkeypatch.setattr(plot, "draw", lambda runs: figure)
    roofline([], str(tmp_path / "roofline.png"))
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    axes = figure.axes[0]
    labels = [text for text in axes.texts if text.get_text() in COLOURS]
    assert {text.get_text() for text in labels} == set(COLOURS)
    boxes = [text.get_window_extent() for text in labels]
    roofs = [text.get_window_extent() for text in axes.texts if "float32" in text.get_text()]
    assert len(roofs) == 2
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*boxes[:i], *roofs]), labels[i]
        assert axes.get_window_extent().containsx(box.x0) and axes.get_window_extent().containsx(box.x1)
    filled = [line for line in axes.lines if line.get_marker() == "o" and line.get_markersize() > 6]
    assert len(filled) == len(CASES)


def test_nothing_to_picture() -> None:
    pytest.importorskip("matplotlib")
    from dataclasses import replace

    from lanner.bench.plot import draw

    with pytest.raises(ValueError, match="plot: nothing was measured"):
        draw([replace(pictured(1), results=[])])


def test_a_peer_that_cannot_is_left_out() -> None:
    def refuses() -> None:
        raise AttributeError("this version has no such operation")

    turns = Turns({OURS: lambda: None, "torch": refuses}, 0.0)
    assert list(turns.calls) == list(turns.repeats) == [OURS]
