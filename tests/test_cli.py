"""The command line: what goes to which stream, exit codes, and how it ends when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lanner
import random_models
import wheelhouse as toy
from gguf_writer import gguf_bytes
from lanner import _doctor, catalog, cli
from scripted_model import ScriptedModel

SCRIPTED = [sys.executable, str(Path(__file__).with_name("scripted_model.py"))]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


@pytest.fixture
def env(tmp_path):
    return os.environ | toy.environment(tmp_path)


@pytest.fixture
def model(monkeypatch, tmp_path):
    """A scripted model in this process; `loaded` holds the arguments of `lanner.load`."""
    scripted = ScriptedModel()
    scripted.loaded = []

    def load(path, **options):
        scripted.loaded.append((path, options))
        return scripted

    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lanner, "load", load, raising=False)
    return scripted


def run(env, *args, stdin=b""):
    """The command line in a child whose three streams are pipes."""
    return subprocess.run([*SCRIPTED, *args], env=env, input=stdin, capture_output=True, timeout=60)


def test_piped_output_is_the_text_alone(env, file):
    done = run(env, "run", file, "hellö\x1b[2J")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1:hellö\x1b[2J".encode(), b"")


def test_piped_output_is_utf8_in_any_locale(env, file):
    done = run(env | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, "run", file, "-", stdin="hellö".encode())
    assert (done.returncode, done.stdout) == (0, "1:hellö".encode())


@pytest.mark.parametrize("args", [["-"], []])
def test_prompt_from_standard_input(env, file, args):
    assert run(env, "run", file, *args, stdin=b"a\nb\r\n").stdout == b"1:a\nb"


def test_standard_input_that_is_not_utf8(env, file):
    done = run(env, "run", file, stdin=b"a\xff")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"lanner run: the input is not UTF-8: invalid start byte at byte 1\n"


def test_statistics_go_to_standard_error(env, file):
    done = run(env, "run", file, "hi", "--stats")
    assert done.stdout == b"1:hi"
    assert done.stderr.decode() == (
        "33 prompt tokens, 4 generated (stop) | first token 0.250 s | 125.0 tokens/s | 12.0 GB/s"
        " | lanner doctor measures what this machine can read\n"
    )


def test_statistics_with_a_measured_bandwidth(model, file, monkeypatch, capsys):
    monkeypatch.setattr(_doctor, "cached_bandwidth", lambda: 24e9)
    assert cli.main(["run", file, "hi", "--stats"]) == 0
    assert capsys.readouterr().err.endswith(" | 12.0 GB/s, 50% of 24.0 GB/s\n")


def test_speculation_is_passed_on_and_counted(model, file, capsys):
    assert cli.main(["run", file, "hi", "--stats", "--speculate", "lookup"]) == 0
    assert model.calls[0][1] == {"speculate": "lookup"}
    assert " | 12 of 24 guesses were right | " in capsys.readouterr().err
    assert cli.main(["chat", file, "--speculate", "other"]) == 2
    assert "invalid choice: 'other'" in capsys.readouterr().err


def test_options_reach_the_library_as_given(model, file):
    options = "--max-tokens 5 --temperature 0.5 --top-k 9 --top-p .9 --min-p .1 --seed 3 --stop x --stop y"
    assert (
        cli.main(
            ["run", file, "hi", *options.split(), "--context", "64", "--threads", "1", "--device", "cuda"]
        )
        == 0
    )
    assert model.loaded == [(Path(file), {"context": 64, "threads": 1, "device": "cuda"})]
    expected = {"max_tokens": 5, "temperature": 0.5, "top_k": 9, "top_p": 0.9, "min_p": 0.1, "seed": 3}
    assert model.calls == [([{"role": "user", "content": "hi"}], expected | {"stop": ["x", "y"]})]
    assert model.is_closed


def test_options_not_given_are_left_to_the_library(model, file):
    assert cli.main(["run", file, "hi"]) == 0
    assert model.loaded[0][1] == model.calls[0][1] == {}


def test_raw_and_models_without_a_template_continue_the_prompt(model, file, capsys):
    assert cli.main(["run", file, "hi", "--raw"]) == 0
    model.tokenizer.chat_template = None
    assert cli.main(["run", file, "hi"]) == 0
    assert [call[0] for call in model.calls] == ["hi", "hi"]
    assert capsys.readouterr().out == "HIHI"


def test_system_message(model, file):
    assert cli.main(["run", file, "hi", "--system", "be brief"]) == 0
    assert [message["role"] for message in model.calls[0][0]] == ["system", "user"]
    assert cli.main(["run", file, "hi", "--system", "be brief", "--raw"]) == 2


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, None),
        (["fly"], 2, "invalid choice: 'fly'"),
        (["run"], 2, "lanner run: the following arguments are required: MODEL"),
        (["run", "FILE", "hi", "--top-p", "1.5"], 2, "--top-p: '1.5' given, wanted a number from 0 to 1"),
        (["run", "FILE", "hi", "--temperature", "nan"], 2, "'nan' given, wanted a number of at least 0"),
        (["run", "FILE", "hi", "--max-tokens", "0"], 2, "'0' given, wanted a whole number of at least 1"),
        (["run", "FILE", "hi", "--max-tokens", "x"], 2, "'x' given"),
        (["run", "smolm2", "hi"], 1, 'lanner run: model: "smolm2" is neither a file nor a catalogue name'),
        (["run", "gone.gguf", "hi"], 1, "lanner run: gone.gguf: no such file or folder"),
        (["run", "FILE", "too long"], 1, "prompt has 9000 tokens, the context has room for 8192"),
        (["pull", "smolm2"], 1, 'the nearest name is "smollm2"'),
    ],
)
def test_errors_are_one_line_and_an_exit_code(model, file, args, code, message, capsys):
    assert cli.main([file if arg == "FILE" else arg for arg in args]) == code
    out, err = capsys.readouterr()
    assert out == ""
    if message is not None:
        assert err.startswith("lanner")
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("error", ["ModelFileError", "UnsupportedModelError", "OutOfMemoryBudget"])
def test_errors_of_the_library_are_one_line(model, file, error, monkeypatch, capsys):
    own = type(error, (Exception,), {})
    monkeypatch.setattr(lanner, error, own, raising=False)

    def load(path, **_):
        raise own(f"{path}:\n bad")

    monkeypatch.setattr(lanner, "load", load)
    assert cli.main(["run", file, "hi"]) == 1
    assert capsys.readouterr().err == f"lanner run: {file}: bad\n"


def test_a_defect_keeps_its_traceback(model, file, monkeypatch):
    monkeypatch.setattr(model, "stream_chat", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", file, "hi"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("command", [["run", "FILE"], ["chat", "FILE"]])
def test_ctrl_c(env, file, tmp_path, command):
    slow = env | {"SCRIPTED_DELAY": "0.05", "SCRIPTED_CLOSED": str(tmp_path / "closed")}
    args = [file if arg == "FILE" else arg for arg in command]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*SCRIPTED, *args], env=slow, **pipes) as child:
        child.stdin.write(b"x" * 1000 + b"\n")
        child.stdin.close()
        assert child.stdout.read(2) == b"1:"
        started = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=10) == 130
        assert time.monotonic() - started < 2
        assert set(child.stdout.read()) <= {ord("x")}
        assert child.stderr.read() == b""
    assert (tmp_path / "closed").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_that_leaves(env, file):
    slow = env | {"SCRIPTED_DELAY": "0.001"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*SCRIPTED, "run", file, "x" * 1000], env=slow, **pipes) as child:
        assert child.stdout.read(2) == b"1:"
        child.stdout.close()
        assert child.wait(timeout=10) == 141
        assert child.stderr.read() == b""


def test_piped_chat(env, file):
    lines = b"one\n\ntwo\n/reset\nthree\n/exit\nfour\n"
    done = run(env, "chat", file, "--system", "be brief", stdin=lines)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"2:one\n4:two\n2:three\n"


def test_chat_remembers_its_own_answers(model, file, monkeypatch):
    lines = iter(["one", "two", None])
    monkeypatch.setattr(cli, "_next_line", lambda _: next(lines))
    assert cli.main(["chat", file]) == 0
    turns = [(message["role"], message["content"]) for message in model.calls[1][0]]
    assert turns == [("user", "one"), ("assistant", "1:one"), ("user", "two")]


def test_piped_chat_ends_at_an_error(env, file):
    done = run(env, "chat", file, stdin=b"too long\nnext\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"lanner chat: stream_chat: the prompt has 9000 tokens")


def test_first_use_pulls_and_names_source_and_licence(model, tmp_path, monkeypatch, capfd):
    for name, value in toy.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(catalog, "MODELS", (toy.toy_entry(),))
    assert cli.main(["run", "toy", "hi"]) == 0
    out, err = capfd.readouterr()
    assert out == "1:hi"
    assert err == "toy: a toy, 0.9 MB, from 3 packages\nsource: nowhere   licence: none\n"
    path = tmp_path / "cache/models/toy/toy.gguf"
    assert model.loaded == [(path, {})]
    assert cli.main(["pull", "toy"]) == 0
    assert capfd.readouterr() == (f"{path}\n", "")


def test_list(model, capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["smollm2", "gemma3-270m", "minilm"]
    assert "93 MB to pull" in out
    assert "Apache-2.0" in out


def test_info_of_a_model(tmp_path, capsys):
    path = random_models.write(random_models.MODELS["gemma3"], tmp_path / "model.gguf")
    assert cli.main(["info", str(path)]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["architecture"] == "gemma3"
    assert shown["context"] == f"{random_models.CONTEXT} tokens"
    assert shown["window"] == "70 tokens in 6 of 7 layers"
    assert shown["heads"] == "6 of 16, 2 for keys and values"
    assert "memory" in shown


def test_info_says_what_is_not_supported(tmp_path, capsys):
    path = tmp_path / "model.gguf"
    tensors = {"blk.0.ssm_a": np.zeros((3, 4), np.float32), "x": np.zeros(8, np.float16)}
    path.write_bytes(gguf_bytes({"general.architecture": "mamba"}, tensors))
    assert cli.main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "weights          f32 0.0 MB, f16 0.0 MB\n" in out
    assert "not supported    " in out
    assert "architecture 'mamba' is not supported" in out


def test_version_and_light_start(env):
    code = "import sys, lanner.cli; sys.exit(any(m in sys.modules for m in ('rich', 'jinja2', 'zipfile')))"
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
    done = subprocess.run(
        [sys.executable, "-m", "lanner", "--version"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("lanner ")


def test_an_instruction_set_that_cannot_run_is_one_line(env, tmp_path):
    model = tmp_path / "x.gguf"
    model.write_bytes(b"GGUF")
    child = subprocess.run(
        [sys.executable, "-m", "lanner", "run", str(model), "hi"],
        env=env | {"LANNER_ISA": "z80"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr.startswith("lanner run: LANNER_ISA is 'z80', this machine and build can run: ")
    assert child.stderr.count("\n") == 1
