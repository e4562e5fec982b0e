"""The other end of engine_worker.py: an engine in a child process under an interpreter of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("engine_worker.py")

HAS_LLAMA_CPP = "import importlib.util, sys; sys.exit(importlib.util.find_spec('llama_cpp') is None)"

HOW_TO_INSTALL = (
    "CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python compiles it for this machine; "
    "--peer-python names the interpreter of another environment that has it"
)


class EngineError(ValueError):
    """An engine that cannot be started or cannot do what was asked, with what it said."""


class EngineProcess:
    """An engine in a child process. Close it, or leave the process to its end of input.

    `cpu_s` is the processor time of the child at its last reply.
    """

    def __init__(self, python: str, engine: str) -> None:
        self.engine = engine
        self._process = subprocess.Popen(
            [python, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self.cpu_s = 0.0

    def call(self, op: str, **arguments: Any) -> Any:
        """The value of an operation; EngineError with what the worker says where it fails or dies."""
        try:
            self._requests.write(json.dumps({"op": op, **arguments}) + "\n")
            self._requests.flush()
            line = self._replies.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EngineError(f"{self.engine}: {op}: the worker ended with status {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise EngineError(f"{self.engine}: {op}: {reply['error']}")
        self.cpu_s = reply["cpu_s"]
        return reply["value"]

    def spent_cpu_s(self) -> float:
        """Processor time of the worker since its last reply."""
        before = self.cpu_s
        self.call("ping")
        return self.cpu_s - before

    def close(self) -> None:
        """End of input ends the worker."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._process.wait()
        self._replies.close()


def peer_interpreter(given: str | None) -> str:
    """An interpreter that has llama_cpp: `given`, or this one. Raises EngineError, with how to install it."""
    if given is None:
        if importlib.util.find_spec("llama_cpp") is None:
            raise EngineError(f"--vs llama-cpp: llama_cpp is not installed here: {HOW_TO_INSTALL}")
        return sys.executable
    try:
        status = subprocess.run([given, "-c", HAS_LLAMA_CPP]).returncode
    except OSError as error:
        raise EngineError(f"--peer-python: {given}: {error.strerror}") from error
    if status:
        raise EngineError(f"--peer-python: {given} has no llama_cpp: {HOW_TO_INSTALL}")
    return given
