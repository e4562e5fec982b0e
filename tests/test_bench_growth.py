"""`lanner bench growth`: what is expected by hand, a curve of a tiny model, and its picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lanner import cli
from lanner.bench import growth, growth_command
from lanner.bench.growth import DECODE_TOKENS, Growth, Point, as_json, contexts, measure_growth
from lanner.bench.machine import Limits
from test_bench_model import COSTS, tiny_file


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("model") / "tiny.gguf")


def curve(scale: float = 1.0) -> Growth:
    """Three contexts, on a machine that reads 20 GB/s and does 100 billion multiply-adds per second."""
    points = [
        Point(128, [0.3 * scale, 0.2 * scale, 0.256 * scale], [0.005 * scale, 0.004 * scale, 0.006 * scale]),
        Point(256, [0.512 * scale], [0.006 * scale]),
        Point(512, [1.2 * scale], [0.007 * scale]),
    ]
    costs = replace(COSTS, layer_macs=COSTS.layer_macs * scale, weight_bytes=int(COSTS.weight_bytes * scale))
    return Growth("/models/some.gguf", 2, costs, {"read": 20e9, "fma": 100e9}, points)


def test_contexts() -> None:
    assert contexts(127) == []
    assert contexts(191) == [128]
    assert contexts(1024) == [128, 256, 512, 1024]
    assert contexts(8192 - 25) == [128, 256, 512, 1024, 2048, 4096, 8160]


def test_costs_per_token_by_hand() -> None:
    made = curve()
    assert made.points[0].prefill_s_per_token == 0.256 / 128
    assert made.points[0].decode_s_per_token == 0.005
    # 128 tokens; pairs: 1 + ... + 128 where all is seen, 1 + 2 + 3 and then four each in a window.
    macs = 128 * 100e6 + 20e6 + 1000 * (128 * 129 / 2 + 6 + 4 * 125)
    assert made.expected_prefill_s_per_token(128) == pytest.approx(macs / 128 / 100e9)
    assert made.expected_decode_s_per_token(128) == pytest.approx((80e6 + 500 * (128 + 4)) / 20e9)


def test_json() -> None:
    stored = json.loads(json.dumps(as_json([curve()])))
    assert stored["schema"] == 1
    (model,) = stored["models"]
    assert [point["context"] for point in model["points"]] == [128, 256, 512]
    assert model["points"][0]["decode_s"] == [0.005, 0.004, 0.006]
    assert model["points"][1]["prefill_s_per_token"] == 0.002
    assert model["points"][1]["expected_decode_s_per_token"] == curve().expected_decode_s_per_token(256)


def test_every_piece_of_a_prompt_is_computed_once(tiny: Path, monkeypatch) -> None:
    steps: list[tuple[int, int]] = []
    load = growth.lanner.load

    def watched(*args, **options):
        model = load(*args, **options)
        generate = model.generate

        def asked(ids, **sampling):
            result = generate(ids, **sampling)
            steps.append((result.usage.cached_tokens, result.usage.prompt_tokens))
            return result

        monkeypatch.setattr(model, "generate", asked)
        return model

    monkeypatch.setattr(growth.lanner, "load", watched)
    told: list[str] = []
    made = measure_growth(
        str(tiny), Limits(1, quick=True), longest=600, n_rounds=2, model_s=100.0, tell=told.append
    )
    assert steps == [(0, 128), *[(0, 128), (128, 256), (256, 512)] * 2]
    assert [point.context for point in made.points] == [128, 256, 512]
    assert all(len(point.prefill_s) == len(point.decode_s) == 2 for point in made.points)
    for a, b in zip(made.points, made.points[1:], strict=False):
        assert all(x < y for x, y in zip(a.prefill_s, b.prefill_s, strict=True))
    assert all(seconds > 0 for point in made.points for seconds in point.decode_s)
    assert len(told) == 2


def test_no_further_round_of_a_slow_model(tiny: Path) -> None:
    made = measure_growth(str(tiny), Limits(1, quick=True), longest=128, n_rounds=5, model_s=0.0)
    assert [len(point.decode_s) for point in made.points] == [1]


def test_a_context_that_is_too_short(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "short.gguf", context=128)
    wanted = f"the context is 128, wanted at least {128 + DECODE_TOKENS + 1}"
    with pytest.raises(ValueError, match=wanted):
        measure_growth(str(path), Limits(1, quick=True), longest=16384, n_rounds=1, model_s=1.0)


def test_the_command(tiny: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(growth_command, "Limits", lambda n_threads: Limits(n_threads, quick=True))
    stored, plot = tmp_path / "x.json", tmp_path / "x.svg"
    args = ["bench", "growth", str(tiny), str(tiny), "--threads", "1", "--runs", "1", "--context", "256"]
    assert cli.main([*args, "--json", str(stored), "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert out.count("tiny.gguf, 1 thread\n") == 2 and out.count("\n    256 ") == 2
    assert len(json.loads(stored.read_text())["models"]) == 2
    assert plot.read_bytes().startswith(b"<?xml")


def test_the_picture_has_every_point_and_what_is_expected() -> None:
    pytest.importorskip("matplotlib")
    from lanner.bench.growth_plot import draw

    assert len(draw([curve()]).axes) == 2
    made = [curve(), curve(3.0)]
    figure = draw(made)
    prompt, decode, prompt_size, decode_size = figure.axes
    expected, measured = decode.lines[2], decode.lines[3]
    assert list(measured.get_xdata()) == [128, 256, 512]
    assert list(measured.get_ydata()) == pytest.approx([15.0, 18.0, 21.0])
    assert list(expected.get_ydata()) == pytest.approx(
        [1e3 * made[1].expected_decode_s_per_token(n) for n in (128, 256, 512)]
    )
    assert list(prompt.lines[1].get_ydata()) == pytest.approx([2.0, 2.0, 1200 / 512])
    for axes in (prompt_size, decode_size):
        line, *points = axes.lines
        assert len(points) == 2
        (x0, x1), (y0, y1) = line.get_xdata(), line.get_ydata()
        assert y0 / x0 == pytest.approx(y1 / x1)  # time is in proportion to size
    assert list(decode_size.lines[1].get_ydata()) == [5.0]
    words = "measured on a noisy machine"
    assert words not in [text.get_text() for text in figure.texts]
    made[1].noise.append("other programs used 10% of the machine")
    assert words in [text.get_text() for text in draw(made).texts]
    # 20 GB/s are 0.05 ms for a megabyte.
    (x0, _), (y0, _) = decode_size.lines[0].get_xdata(), decode_size.lines[0].get_ydata()
    assert y0 / x0 == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["/no/such.gguf"], 1, "/no/such.gguf: no such file or folder"),
        ([], 2, "the following arguments are required: MODEL"),
        (["TINY", "--plot", "x.unknown"], 1, "--plot: x.unknown: wanted a name that ends in one of"),
        (["TINY", "--context", "100"], 1, "the context is 100, wanted at least 153"),
    ],
)
def test_errors(tiny: Path, capsys, args, code, message) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main(["bench", "growth", *[str(tiny) if arg == "TINY" else arg for arg in args]]) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
