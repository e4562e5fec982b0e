"""The public interface on a real model: threads, Ctrl-C, streams, stop texts, seeds, limits."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import lanner

PROMPTS = [
    "Once upon a time",
    "def fibonacci(n):\n",
    "The capital of France is",
    "Das Wetter heute 🌦️ ist",
    "1, 2, 3, 4, 5,",
]
CHAT = [{"role": "user", "content": "Name three colours."}]
LIMIT_S = 60.0


def test_threads_get_what_serial_calls_get(smollm2):
    def ask(i):
        return smollm2.generate(PROMPTS[i], max_tokens=16, temperature=0.8 * (i % 2), top_k=40, seed=i).tokens

    serial = [ask(i) for i in range(len(PROMPTS))]
    results = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: ask(i)})) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert [results[i] for i in range(len(PROMPTS))] == serial


def test_lists_give_what_single_prompts_give(smollm2):
    results = smollm2.generate(PROMPTS, max_tokens=8)
    assert [r.tokens for r in results] == [smollm2.generate(p, max_tokens=8).tokens for p in PROMPTS]
    assert all(r.usage.completion_tokens == len(r.tokens) for r in results)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_streams_give_what_generate_gives(smollm2, prompt):
    whole = smollm2.generate(prompt, max_tokens=24, temperature=1.0, top_p=0.9, seed=7)
    chunks = list(smollm2.stream(prompt, max_tokens=24, temperature=1.0, top_p=0.9, seed=7))
    assert "".join(chunk.text for chunk in chunks) == whole.text == chunks[-1].result.text
    assert [chunk.token for chunk in chunks] == whole.tokens
    assert smollm2.tokenizer.decode(whole.tokens) == whole.text


def test_seeds_repeat(smollm2):
    a = smollm2.generate(PROMPTS[0], max_tokens=24, temperature=1.0)
    b = smollm2.generate(PROMPTS[0], max_tokens=24, temperature=1.0, seed=a.seed)
    c = smollm2.generate(PROMPTS[0], max_tokens=24, temperature=1.0, seed=a.seed ^ 1)
    assert a.tokens == b.tokens != c.tokens


def test_stop_texts(smollm2):
    text = smollm2.generate(PROMPTS[0], max_tokens=40).text
    for stop in (text[17:23], text[10:11], text[20:33]):
        chunks = list(smollm2.stream(PROMPTS[0], max_tokens=40, stop=[stop, "never said"]))
        assert chunks[-1].result.text == text[: text.find(stop)]
        assert "".join(chunk.text for chunk in chunks) == text[: text.find(stop)]
        assert chunks[-1].finish_reason == "stop"


def test_an_answer_ends_before_its_end_token(smollm2):
    result = smollm2.chat(CHAT, max_tokens=300)
    assert result.finish_reason == "stop"
    assert result.tokens[-1] in smollm2.tokenizer.eos_ids
    assert "<|im_end|>" not in result.text
    text = smollm2.tokenizer.apply_chat_template(CHAT)
    assert smollm2.generate(text, max_tokens=300).tokens == result.tokens


def test_logits_and_perplexity(smollm2):
    ids = smollm2.tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 12)
    logits = smollm2.logits(ids)
    assert np.array_equal(logits[:70], smollm2.logits(ids[:70]))
    x = logits.astype(np.float64)
    log_p = x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)
    expected = math.exp(-np.mean(log_p[np.arange(len(ids) - 1), ids[1:]]))
    assert smollm2.perplexity(ids) == pytest.approx(expected, rel=1e-5)
    assert smollm2.generate(ids, max_tokens=1).tokens == [int(logits[-1].argmax())]


def test_limits(smollm2, smollm2_path):
    with pytest.raises(ValueError, match=r"10000.*8192"):
        lanner.load(smollm2_path, context=10_000)
    with lanner.load(smollm2_path, context=64, threads=1) as model:
        with pytest.raises(ValueError, match=r"64 tokens, no room is left in the context of 64"):
            model.generate([1] * 64)
        result = model.generate([1] * 40, max_tokens=100, ignore_eos=True)
        assert (len(result.tokens), result.finish_reason) == (24, "length")
        assert result.tokens == smollm2.generate([1] * 40, max_tokens=24, ignore_eos=True).tokens
        running = model.submit([1], ignore_eos=True)
    assert running.result(timeout=LIMIT_S).finish_reason == "cancelled"
    with pytest.raises(RuntimeError, match="generate: the model is closed"):
        model.generate("a")


def test_bad_arguments_of_load(smollm2_path):
    for options, message in (
        ({"threads": 0}, "load: threads is 0, wanted a whole number of at least 1, or None"),
        ({"context": -1}, "load: context is -1, wanted a whole number of at least 1, or None"),
        ({"max_memory": 1.5}, "load: max_memory is 1.5, wanted a whole number of at least 1, or None"),
        ({"kv_dtype": "q3"}, "load: kv_dtype is 'q3'"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            lanner.load(smollm2_path, **options)
    with pytest.raises(TypeError, match=r"^load: unknown keyword 'n_threads', the nearest is 'threads'$"):
        lanner.load(smollm2_path, n_threads=2)
    with pytest.raises(ValueError, match=r"^load: device is 'tpu', wanted one of 'cpu', 'cuda'$"):
        lanner.load(smollm2_path, device="tpu")
    with pytest.raises(lanner.OutOfMemoryBudget, match="max_memory is 1000000"):
        lanner.load(smollm2_path, max_memory=1_000_000)


CHILD = """
import sys, time, lanner
model = lanner.load(sys.argv[1])
expected = model.generate([50, 60], max_tokens=4).tokens
print("running", flush=True)
try:
    model.generate([1, 2, 3, 4] * 2000, max_tokens=1)
except KeyboardInterrupt:
    print(time.monotonic())
start = time.monotonic()
assert model.generate([50, 60], max_tokens=4).tokens == expected
print(time.monotonic() - start)
"""


def ctrl_c_latency_s(path):
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        time.sleep(0.3)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (0, "")
    caught, _ = map(float, out.split())
    return caught - sent


def test_ctrl_c_in_a_long_prompt(smollm2_path):
    assert any(ctrl_c_latency_s(smollm2_path) < 0.05 for _ in range(3))  # of a process that gets a processor


def test_leaving_in_the_middle_of_a_step(smollm2_path):
    code = (
        "import sys, time, lanner; model = lanner.load(sys.argv[1]); "
        "model.submit([1, 2, 3] * 1000); time.sleep(0.2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(smollm2_path)], capture_output=True, timeout=LIMIT_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


FORK = """
import os, signal, sys, time, lanner
model = lanner.load(sys.argv[1])
expected = model.generate([50, 60], max_tokens=4).tokens
for i in range(8):
    handle = model.submit([1, 2, 3, 4] * 500, max_tokens=1)
    time.sleep(0.03 + 0.007 * i)
    if (pid := os.fork()) == 0:
        signal.alarm(15)
        os._exit(model.generate([50, 60], max_tokens=4).tokens != expected)
    handle.cancel()
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_fork_in_the_middle_of_a_step(smollm2_path):
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(smollm2_path)], capture_output=True, timeout=LIMIT_S
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_importing_loads_next_to_nothing():
    code = (
        "import sys, threading, numpy; before = set(sys.modules); import lanner; "
        "print(*sorted(set(sys.modules) - before)); assert threading.active_count() == 1"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(out.split()) <= {"__future__", "lanner"}
    assert set(lanner.__all__) <= set(dir(lanner))
    for name in lanner.__all__:
        assert getattr(lanner, name) is not None
    with pytest.raises(AttributeError, match="module 'lanner' has no attribute 'lode'"):
        lanner.lode  # noqa: B018


def test_text_needs_neither_numpy_nor_json(smollm2_path):
    """Each costs a cold start tens of milliseconds, and a GGUF file's text wants none."""
    code = (
        "import sys, lanner; model = lanner.load(sys.argv[1]); "
        "assert model.generate('Hello', max_tokens=2).text; print(*{'numpy', 'json'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(smollm2_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
