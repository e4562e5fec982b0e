"""The engine thread and its process: Ctrl-C, fork, exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fake_decoder import fake_model, naive

LONG = list(range(40, 240))  # 13 steps of 16 tokens
LIMIT_S = 20.0  # for what takes milliseconds: only a hang is that long

CHILD = """
import os, sys, threading, time
sys.path.insert(0, {tests!r})
from fake_decoder import fake_model, naive
LONG = list(range(40, 240))
"""


def child(code, **options):
    source = CHILD.format(tests=str(Path(__file__).parent)) + code
    return subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize(
    "call",
    [
        "generate(LONG)",
        "generate([LONG, LONG])",
        "logits(LONG)",
        "stream(LONG).__next__()",
        "submit(LONG, max_tokens=1).result()",
    ],
)
def test_ctrl_c(call):
    assert any(ctrl_c_latency_s(call) < 0.05 for _ in range(3))  # of a process that gets a processor


def ctrl_c_latency_s(call):
    code = f"""
model, decoder = fake_model(layer_s=0.02)
threading.Thread(target=lambda: (decoder.started.wait(), print("running", flush=True))).start()
try:
    model.{call}
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
assert model.generate([50], max_tokens=2).tokens == naive([50], 2)
print("submit" in {call!r} or decoder.n_stopped)
"""
    with child(code) as process:
        assert process.stdout.readline() == "running\n"
        time.sleep(0.05)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
    caught, stopped = out.split()
    assert (process.returncode, err) == (0, "")
    assert stopped in ("1", "True")
    return float(caught) - sent


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "sys.exit(0)",
        "del model",
        "model.close()",
        "import atexit; atexit.register(model.generate, [50], max_tokens=1)",
        "keep = model; model.cycle = model; stream = model.stream(LONG); next(stream)",
    ],
)
def test_exit_in_the_middle_of_a_step(ending):
    code = f"""
model, decoder = fake_model(layer_s=0.01)
handles = [model.submit(LONG, max_tokens=1) for _ in range(3)]
decoder.started.wait()
{ending}
"""
    with child(code) as process:
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_in_the_middle_of_a_step():
    model, decoder = fake_model(layer_s=0.002)
    running, waiting = model.submit(LONG, max_tokens=4), model.stream(LONG, max_tokens=4)
    assert decoder.started.wait(LIMIT_S)
    if (pid := os.fork()) == 0:
        code = 1
        try:
            for call in (lambda: running.result(timeout=5), lambda: next(waiting)):
                with pytest.raises(RuntimeError, match="made before fork and goes on in the parent process"):
                    call()
            assert model.generate(LONG, max_tokens=5).tokens == naive(LONG, 5)
            model.close()
            code = 0
        finally:
            os._exit(code)
    assert running.result(timeout=LIMIT_S).tokens == naive(LONG, 4)
    assert len(list(waiting)) == 4
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    model.close()
