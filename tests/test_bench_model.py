"""`lanner bench model`: its rows, its reports on made-up samples, its picture, and a run on a tiny model."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import tiny_llama
import vocabulary
from gguf_writer import gguf_bytes
from lanner import UnsupportedModelError, cli
from lanner.bench import engine_process, model_command, model_run, report, rounds
from lanner.bench.engine_process import EngineError, EngineProcess, peer_interpreter
from lanner.bench.machine import Limits
from lanner.bench.model_costs import ModelCosts, model_costs
from lanner.bench.model_report import markdown, show
from lanner.bench.model_results import LANNER, Contender, ModelRun, Row, as_json
from lanner.bench.model_rows import LoadedModels, rotated
from lanner.bench.model_run import Plan, measure_loaded, measure_model
from lanner.bench.rounds import Rounds, Turn
from lanner.bench.whole_process import run_whole
from tiny_seq2seq import TinySeq2Seq

ON, OFF = Contender("llama.cpp", "flash attention on"), Contender("llama.cpp", "flash attention off")


def tiny_file(path: Path, context: int = tiny_llama.CONTEXT) -> Path:
    """A small llama with a tokenizer."""
    tiny = tiny_llama.Tiny(
        16, 160, {"token_embd": "q8_0", "attn_q": "q4_1", "ffn_up": "q4_0"}, vocab=len(vocabulary.TOKENS)
    )
    metadata, tensors, _ = tiny_llama.contents(tiny)
    path.write_bytes(gguf_bytes(vocabulary.METADATA | metadata | {"llama.context_length": context}, tensors))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("model") / "tiny.gguf")


COSTS = ModelCosts(
    file_bytes=100_000_000,
    weight_bytes=80_000_000,
    layer_macs=100e6,
    head_macs=20e6,
    pair_macs=1000.0,
    kv_bytes=500,
    windows=(0, 4),
    context_length=8192,
    n_params=130_000_000,
)


def made_up(*, alone: bool = False) -> ModelRun:
    """Three rows, on a machine that reads 20 GB/s and does 100 billion multiply-adds per second."""
    prefill = Row("prefill, 512 tokens", "tokens/s", higher_is_better=True, n_macs=100e6)
    decode = Row("decode, 64 tokens", "tokens/s", higher_is_better=True, n_bytes=80e6)
    seconds = Row("first token of 33, whole process", "s", higher_is_better=False)
    memory = Row("peak memory of that process", "MB", higher_is_better=False)
    rows = (
        # Ratios to flash attention on: 4, 5, 3.
        (prefill, [800.0, 1000.0, 900.0], [200.0, 200.0, 300.0], [190.0, 150.0, 250.0]),
        (decode, [200.0, 180.0, 210.0], [90.0, 80.0, 100.0], [100.0, 90.0, 105.0]),
        (seconds, [0.25, 0.2, 0.3], [1.0, 0.5, 0.75], [1.5, 1.0, 1.0]),
        (memory, [125.0, 124.0, 126.0], [204.0, 200.0, 205.0], [190.0, 200.0, 195.0]),
    )
    for row, ours, on, off in rows:
        row.samples = {LANNER: ours} if alone else {LANNER: ours, ON: on, OFF: off}
    engines = {"lanner": {"name": "Lanner", "version": "0.1.0", "features": "avx2", "variants": [""]}}
    if not alone:
        engines["llama.cpp"] = {
            "name": "llama.cpp",
            "version": "llama-cpp-python 0.3",
            "features": "AVX2 FMA",
            "variants": ["flash attention on", "flash attention off"],
        }
    limits = {"read": 20e9, "fma": 100e9}
    return ModelRun("/models/some.gguf", "a processor", 2, COSTS, engines, limits, [row[0] for row in rows])


# ---- samples, by hand ----------------------------------------------------------------------------


def test_ratios_are_medians_over_rounds() -> None:
    prefill, decode, seconds, memory = made_up().rows
    assert (prefill.peer, prefill.ratios, prefill.ratio) == (ON, [3.0, 4.0, 5.0], 4.0)
    assert (decode.peer, decode.ratio) == (OFF, 2.0)
    assert seconds.peer == ON and seconds.ratios == pytest.approx([0.25, 0.4, 0.4])
    assert (memory.peer, memory.median(memory.peer)) == (OFF, 195.0)
    assert prefill.spread == "3.00-5.00"


def test_limits_by_hand() -> None:
    run = made_up()
    prefill, decode, seconds, memory = run.rows
    assert run.limit(prefill) == 1000.0 and run.against_limit(prefill, LANNER) == "90 GMAC/s, 90%"
    assert run.limit(decode) == 250.0 and run.against_limit(decode, LANNER) == "16.0 GB/s, 80%"
    assert run.limit(seconds) is None and run.against_limit(seconds, LANNER) == ""
    assert run.limit(memory) == 100.0 and run.against_limit(memory, LANNER) == "file + 25 MB"
    both = Row("decode, 8 x 64 tokens", "tokens/s", higher_is_better=True, n_macs=125e6, n_bytes=10e6)
    both.add(LANNER, 400.0)
    assert run.limit(both) == 800.0 and run.against_limit(both, LANNER) == "50 GMAC/s, 50%"


def test_costs_by_hand() -> None:
    # Six tokens: 1 + ... + 6 pairs where all is seen, 1 + 2 + 3 + 4 + 4 + 4 in a window of four.
    assert COSTS.prefill_macs(6) == 6 * 100e6 + 20e6 + 1000 * (21 + 18)
    assert COSTS.decode_bytes(0) == 80e6
    assert COSTS.decode_bytes(10) == 80e6 + 500 * (10 + 4)


def test_costs_of_a_file(tiny: Path) -> None:
    costs = model_costs(tiny)
    shapes = tiny_llama.Tiny(16, 160, vocab=len(vocabulary.TOKENS)).shapes()
    macs = {name: n * k for name, (n, k) in shapes.items()}
    assert costs.head_macs == macs.pop("token_embd")  # tied
    assert costs.layer_macs == sum(macs.values())
    assert costs.pair_macs == 2 * tiny_llama.HEADS * 16
    assert costs.kv_bytes == 2 * 2 * tiny_llama.KV_HEADS * 16
    assert (costs.windows, costs.context_length) == ((0,) * tiny_llama.LAYERS, tiny_llama.CONTEXT)
    assert costs.file_bytes == tiny.stat().st_size
    norms = (2 * tiny_llama.LAYERS + 1) * tiny_llama.HIDDEN
    assert costs.n_params == sum(macs.values()) + costs.head_macs + norms


# ---- reports -------------------------------------------------------------------------------------


def test_markdown() -> None:
    run = made_up()
    run.notes.append("something was odd")
    page = markdown([run, run], datetime.date(2025, 1, 31))
    assert page.splitlines()[0] == "# Lanner beside llama.cpp"
    assert "- 2025-01-31\n" in page and "medians of 3 rounds" in page.replace("\n", " ")
    assert page.count("## some.gguf") == page.count("- something was odd") == 2
    assert (
        "| prefill, 512 tokens | 900 tokens/s | 90 GMAC/s, 90% | 200 tokens/s | 20 GMAC/s, 20% | 4.00 "
        "| 3.00-5.00 | flash attention on |\n"
    ) in page
    assert "| first token of 33, whole process | 0.25 s |  | 0.75 s |  | 0.40 | 0.25-0.40 |" in page
    assert "20.0 GB/s of memory reads, 100 billion float32 multiply-adds per second" in page
    assert page.endswith("\n") and not page.endswith("\n\n")
    assert "| prefill, 512 tokens | 900 tokens/s (4.00x) | 900 tokens/s (4.00x) |\n" in page
    assert {line.count("|") for line in page.splitlines() if line.startswith("|")} == {4, 9}
    assert {line.count("|") for line in markdown([run]).splitlines() if line.startswith("|")} == {9}


def test_markdown_of_lanner_alone() -> None:
    page = markdown([made_up(alone=True)])
    assert "llama.cpp" not in page
    assert "| decode, 64 tokens | 200 tokens/s | 16.0 GB/s, 80% |\n" in page


def test_a_table_for_a_terminal(capsys) -> None:
    run = made_up()
    run.notes.append("something was odd")
    show(run, report.console())
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    decode = "decode, 64 tokens 200 tokens/s 16.0 GB/s, 80% 100 tokens/s 8.0 GB/s, 40% 2.00 2.00-2.00"
    assert f"{decode} flash attention off" in lines
    assert "note: something was odd" in lines
    assert "file: some.gguf, 100.0 MB, 130 million parameters, 80.0 MB of weights read per step" in lines


def test_json_has_every_sample() -> None:
    stored = json.loads(json.dumps(as_json([made_up()])))
    assert stored["schema"] == 1
    (run,) = stored["models"]
    assert run["costs"]["windows"] == [0, 4] and run["limits"] == {"read": 20e9, "fma": 100e9}
    prefill = run["rows"][0]
    assert prefill["samples"]["llama.cpp flash attention on"] == [200.0, 200.0, 300.0]
    assert (prefill["ratio"], prefill["limit"], prefill["peer"]) == (
        4.0,
        1000.0,
        "llama.cpp flash attention on",
    )
    alone = as_json([made_up(alone=True)])["models"][0]["rows"][0]
    assert (alone["ratio"], alone["ratios"], alone["peer"]) == (None, [], None)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG\r\n"), ("svg", b"<?xml")])
def test_bars(tmp_path: Path, suffix: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    from lanner.bench.model_plot import bars

    path = tmp_path / f"bars.{suffix}"
    bars([made_up()], str(path))
    assert path.read_bytes().startswith(start)


def test_bars_are_as_long_as_the_samples() -> None:
    pytest.importorskip("matplotlib")
    from lanner.bench.model_plot import draw

    one = made_up()
    one.rows = one.rows[:2]
    figure = draw([made_up(), one])
    assert len(figure.axes) == 8
    for axes, row in zip(figure.axes, made_up().rows, strict=False):
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == [row.median(who) for who in row.contenders]
        limit = made_up().limit(row)
        assert ([limit, limit] in [list(line.get_xdata()) for line in axes.lines]) == (limit is not None)
    assert [text.get_text() for text in figure.axes[7].texts] == ["left out"]
    assert len(draw([made_up(alone=True)]).axes[0].patches) == 1
    with pytest.raises(ValueError, match="nothing was measured"):
        draw([])


# ---- rounds --------------------------------------------------------------------------------------


def quiet_rounds(monkeypatch, n_rounds: int, row_s: float = 100.0) -> Rounds:
    monkeypatch.setattr(rounds, "SETTLE_S", 0.0)
    monkeypatch.setattr(rounds, "busy_s", lambda: 0.0)
    return Rounds(made_up(), n_rounds, 0.0, row_s, lambda text: None)


def test_contenders_take_turns(monkeypatch) -> None:
    played = quiet_rounds(monkeypatch, 2)
    row, order = Row("x", "tokens/s", higher_is_better=True), []

    def turn(contender: Contender, index: int) -> Turn:
        order.append((index, contender))
        return Turn((float(index),), 0.0)

    played.play([row], [LANNER, ON, OFF], turn)
    assert order == [
        (0, LANNER),
        (0, ON),
        (0, OFF),
        (1, ON),
        (1, OFF),
        (1, LANNER),
        (2, OFF),
        (2, LANNER),
        (2, ON),
    ]
    assert row.samples == {who: [1.0, 2.0] for who in (LANNER, ON, OFF)}  # the first round warms up
    assert played.run.rows[-1] is row and not played.run.notes


@pytest.mark.parametrize(("row_s", "n_counted"), [(35.0, 2), (5.0, 1), (60.0, 5)])
def test_a_slow_row_has_fewer_rounds(monkeypatch, row_s: float, n_counted: int) -> None:
    played = quiet_rounds(monkeypatch, 5, row_s)
    clock = [0.0]
    monkeypatch.setattr(rounds.time, "monotonic", lambda: clock[0])

    def turn(contender: Contender, index: int) -> Turn:
        clock[0] += 10.0
        return Turn((1.0,), 0.0)

    row = Row("x", "tokens/s", higher_is_better=True)
    played.play([row], [LANNER], turn)
    assert row.samples[LANNER] == [1.0] * n_counted
    assert played.run.notes == ([f"x: {n_counted} of 5 rounds, for want of time"] if n_counted < 5 else [])


def test_disturbed_rounds_are_told(monkeypatch) -> None:
    played = quiet_rounds(monkeypatch, 2)
    busy = itertools.count()
    monkeypatch.setattr(rounds, "busy_s", lambda: 1e3 * next(busy))
    played.play([Row("x", "s", higher_is_better=False)], [LANNER], lambda *_: Turn((1.0,), 0.0))
    assert len(played.run.notes) == 1 and "x: in 2 of 2 rounds other programs took" in played.run.notes[0]


def test_a_context_that_would_take_too_long_is_left_out(monkeypatch) -> None:
    played = quiet_rounds(monkeypatch, 2, 20.0)
    loaded = LoadedModels(played, {}, [1, 2, 3])
    loaded.decode(64, 4096)  # 4096 / 900 + 4096 / 200 + 4096 / 190 seconds of prompts
    assert played.run.notes == [
        "decode, 64 tokens behind 4096: left out, the prompts would take about 47 s; --row-seconds allows it"
    ]
    assert len(played.run.rows) == 4


def test_prompts_begin_differently() -> None:
    assert rotated([1, 2, 3], 5, 0) == [1, 2, 3, 1, 2]
    assert rotated([1, 2, 3], 5, 4) == [2, 3, 1, 2, 3]


# ---- processes -----------------------------------------------------------------------------------


def test_a_whole_process() -> None:
    code = "import sys, time; x = b'x' * 40_000_000; time.sleep(0.2); print(sys.argv[1]); print(2)"
    large = np.ones(15_000_000)  # 120 MB of this process, which must not count
    run = run_whole(sys.executable, code, ["hello"])
    assert large[-1] == 1 and run.output == "hello"
    assert 0.2 < run.seconds < 100 and 0 < run.cpu_s < 10
    assert 40e6 < run.peak_bytes < 100e6
    with pytest.raises(RuntimeError, match="ended with status 3"):
        run_whole(sys.executable, "raise SystemExit(3)", [])


@pytest.fixture
def worker():
    with closing(EngineProcess(sys.executable, "lanner")) as made:
        yield made


def test_a_worker_says_what_is_wrong(worker: EngineProcess) -> None:
    with pytest.raises(EngineError, match="lanner: prefill: RuntimeError: no model is loaded"):
        worker.call("prefill", ids=[1], variant="")
    sizes = {"n_threads": 1, "n_positions": 64}
    with pytest.raises(EngineError, match=r"lanner: load: FileNotFoundError: /no/such\.gguf"):
        worker.call("load", engine="lanner", path="/no/such.gguf", **sizes)
    assert worker.call("ping") is None


def test_a_worker_that_dies() -> None:
    with closing(EngineProcess("/bin/false", "peer")) as dead:
        time.sleep(0.1)
        with pytest.raises(EngineError, match="peer: ping: the worker ended with status 1"):
            dead.call("ping")


def test_the_worker_needs_the_standard_library_alone() -> None:
    """Its interpreter may have no Lanner; names of this package are not in the way of its imports."""
    script = engine_process.WORKER
    request = json.dumps({"op": "load", "engine": "llama.cpp", "path": "x", "n_threads": 1, "n_positions": 1})
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script)], input=request, capture_output=True, text=True, timeout=60
    )
    assert "No module named 'llama_cpp'" in json.loads(done.stdout)["error"], done.stderr


# ---- a run ---------------------------------------------------------------------------------------


def test_two_engines_on_a_tiny_model(tiny: Path, monkeypatch) -> None:
    """Lanner against itself: the same protocol, the same work, and ratios near 1."""
    monkeypatch.setattr(rounds, "SETTLE_S", 0.0)
    run = ModelRun(str(tiny), "a processor", 1, model_costs(tiny))
    plan = Plan(1, n_runs=2, n_context=300, n_parallel=3, patience_s=0.0)
    rows = ("prefill", "short", "decode", "context", "parallel")
    told: list[str] = []
    ours, theirs = EngineProcess(sys.executable, "lanner"), EngineProcess(sys.executable, "lanner")
    with closing(ours), closing(theirs):
        n_short = measure_loaded(
            Rounds(run, plan.n_runs, plan.patience_s, plan.row_s, told.append),
            {"lanner": ours, "llama.cpp": theirs},
            plan,
            rows,
            Limits(1, quick=True),
        )
    titles = [
        "prefill, 512 tokens",
        "prefill, 32 tokens",
        "decode, 64 tokens",
        "decode, 64 tokens behind 300",
        "decode, 3 x 64 tokens",
    ]
    assert [row.title for row in run.rows] == told == titles
    assert n_short > 10
    for row in run.rows:
        assert row.peer == Contender("llama.cpp") and [len(values) for values in row.samples.values()] == [
            2,
            2,
        ]
        assert 0.02 < row.ratio < 50 and run.limit(row) > 0
    assert not [note for note in run.notes if "chose the same" in note or "tokenizers" in note]


def test_rows_that_a_model_cannot_hold_are_left_out(tmp_path: Path, monkeypatch) -> None:
    path = tiny_file(tmp_path / "short.gguf", context=256)
    monkeypatch.setattr(model_run, "Limits", lambda n_threads: Limits(n_threads, quick=True))
    plan = Plan(1, n_runs=1, rows=("prefill", "context", "short"), patience_s=0.0)
    run = measure_model(str(path), plan)
    assert [row.title for row in run.rows] == ["prefill, 32 tokens"]
    assert run.notes[:2] == [
        "prefill: left out, it takes 513 positions and the model has 256",
        "context: left out, it takes 4161 positions and the model has 256",
    ]


def test_the_command(tiny: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    out = {name: tmp_path / f"x.{name}" for name in ("json", "md", "svg")}
    args = ["bench", "model", str(tiny), "--threads", "1", "--runs", "1", "--rows", "decode,process"]
    files = ["--json", str(out["json"]), "--markdown", str(out["md"]), "--plot", str(out["svg"])]
    assert cli.main([*args, "--patience", "0", *files]) == 0
    shown = capsys.readouterr()
    assert "decode, 64 tokens" in shown.out and "GB/s" in shown.out and "file + " in shown.out
    assert "decode, 64 tokens\n" in shown.err
    rows = json.loads(out["json"].read_text())["models"][0]["rows"]
    assert [row["unit"] for row in rows] == ["tokens/s", "s", "MB"]
    seconds, megabytes = (row["samples"]["lanner"][0] for row in rows[1:])
    assert 0 < seconds < 30 and 5 < megabytes < 500
    assert out["md"].read_text().startswith("# Lanner beside the machine's limits\n")
    assert out["svg"].read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["/no/such.gguf"], 1, "/no/such.gguf: no such file or folder"),
        (["smollmm"], 1, 'the nearest name is "smollm2"'),
        ([__file__], 1, "test_bench_model.py: "),
        ([], 2, "the following arguments are required: MODEL"),
        (
            ["TINY", "--rows", "prefill,x"],
            2,
            "'x' given, wanted some of prefill,short,decode,context,parallel,process",
        ),
        (["TINY", "--runs", "0"], 2, "'0' given, wanted a whole number of at least 1"),
        (["TINY", "--vs", "vllm"], 2, "invalid choice: 'vllm'"),
        (
            ["TINY", "--vs", "llama-cpp", "--peer-python", "/no/python"],
            1,
            "--peer-python: /no/python: No such file",
        ),
        (["FOLDER", "--vs", "llama-cpp"], 1, "is a folder, wanted a GGUF file"),
        (["TINY", "FOLDER"], 1, "has no config.json"),
        (["TINY", "--json", "/no/such/folder/x.json"], 1, "/no/such/folder: no such folder"),
        (["TINY", "--plot", "x.unknown"], 1, "--plot"),
    ],
)
def test_errors_come_before_any_measurement(tiny: Path, monkeypatch, capsys, args, code, message) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(model_run, "EngineProcess", lambda *_: pytest.fail("it measured"))
    known = {"TINY": str(tiny), "FOLDER": str(tiny.parent)}
    given = [known.get(arg, arg) for arg in args]
    assert cli.main(["bench", "model", *given]) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_what_does_not_continue_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="bench: the architecture is 't5', wanted a decoder"):
        model_costs(TinySeq2Seq("t5").write(tmp_path))


def test_a_missing_peer_is_told_with_how_to_install_it(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine_process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=r"not installed here: .*pip install llama-cpp-python .*--peer-python"
    ):
        peer_interpreter(None)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    os.chmod(bare, 0o755)
    with pytest.raises(EngineError, match=r"python has no llama_cpp: .*pip install llama-cpp-python"):
        peer_interpreter(str(bare))


def test_the_command_asks_for_the_peer_first(tiny: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        model_command, "peer_interpreter", lambda given: (_ for _ in ()).throw(EngineError("no peer"))
    )
    assert cli.main(["bench", "model", str(tiny), "--vs", "llama-cpp"]) == 1
    assert capsys.readouterr().err == "lanner bench: no peer\n"
