"""`lanner bench coldstart`: the parts of a process on a tiny model, and what a real one may take."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from conftest import model_path
from lanner import cli
from lanner.bench.coldstart import PARTS, measure
from lanner.bench.model_run import short_prompt
from test_bench_model import tiny_file


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("model") / "tiny.gguf")


def test_parts_add_up_to_the_process(tiny: Path) -> None:
    told: list[str] = []
    found = measure(str(tiny), "aab", n_threads=1, n_runs=2, tell=told.append)
    assert told == ["packed weights kept, first run", "packed anew, first run", "run 1 of 2", "run 2 of 2"]
    assert found.file_bytes == tiny.stat().st_size
    for start in found.starts:
        assert tuple(start.parts) == PARTS
        assert all(len(seconds) == len(start.seconds) == 2 for seconds in start.parts.values())
        for index, seconds in enumerate(start.seconds):
            parts = [start.parts[part][index] for part in PARTS]
            assert min(parts) >= 0
            assert sum(parts) == pytest.approx(seconds) or start.parts["exit"][index] == 0
        assert min(start.parts["import"]) > 0.001 and min(start.parts["first token"]) > 0
        assert min(start.peak_bytes) > 5e6
        assert start.first_close_s is not None and 0 < start.first_close_s < start.first_s


def test_the_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cold.json"
    command = [
        "bench",
        "coldstart",
        str(tiny),
        str(tiny),
        "--threads",
        "1",
        "--runs",
        "1",
        "--json",
        str(file),
    ]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    for title in (
        *PARTS,
        "whole process",
        "close of that",
        "peak memory",
        "packed anew",
        "tiny.gguf, 1 threads",
    ):
        assert title in shown
    found = json.loads(file.read_text())
    assert [each["model"] for each in found] == [str(tiny), str(tiny)]
    assert [start["title"] for start in found[0]["starts"]] == ["packed weights kept", "packed anew"]


def test_errors_come_before_anything_runs(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "coldstart", str(tmp_path / "none.gguf")]) == 1
    (tmp_path / "bad.gguf").write_bytes(b"garbage")
    capsys.readouterr()
    assert cli.main(["bench", "coldstart", str(tiny), str(tmp_path / "bad.gguf")]) == 1
    assert capsys.readouterr().err.endswith("is not a GGUF file: it starts with 'garb', wanted 'GGUF'\n")
    assert cli.main(["bench", "coldstart", str(tiny), "--json", str(tmp_path / "none" / "a.json")]) == 1
    assert "no such folder" in capsys.readouterr().err


def assert_memory_is_little_more_than_the_file(path: Path) -> None:
    """In a cache of its own: the first run packs and keeps, the others find both."""
    for start in measure(str(path), short_prompt(), n_threads=2, n_runs=1).starts:
        assert max(start.peak_bytes) <= os.path.getsize(path) + 60e6, start.title


def test_peak_memory(smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path))
    assert_memory_is_little_more_than_the_file(smollm2_path)


@pytest.mark.models
@pytest.mark.parametrize("name", ["gemma3-270m", "qwen2.5-coder-0.5b"])
def test_peak_memory_of_larger_models(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_path(name)
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path))
    assert_memory_is_little_more_than_the_file(path)
