"""The GGUF reader: what it returns for good files, and that no bad file gets past it or ends the process."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gguf_writer as w
from lanner._core import GgufFile, ModelFileError, UnsupportedModelError

METADATA, TENSORS, NESTED = w.METADATA, w.TENSORS, w.NESTED


@pytest.fixture
def write(tmp_path: Path):
    def write_file(data: bytes) -> str:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return str(path)

    return write_file


def plain(value: Any) -> Any:
    """What GgufFile.get() is to give back for an entry of METADATA."""
    value = w.typed(value)
    if value.type == w.ARRAY:
        return value.value[1] if value.value[0] == w.STRING else np.asarray(value.value[1])
    return float(np.float32(value.value)) if value.type == w.F32 else value.value


# ---- good files --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_reads_back_what_was_written(write, version, alignment):
    data = w.gguf_bytes(METADATA, TENSORS, version=version, alignment=alignment)
    f = GgufFile(write(data))
    assert (f.version, f.alignment, f.n_bytes) == (version, alignment, len(data))
    assert f.keys()[: len(METADATA)] == list(METADATA)
    for key, value in METADATA.items():
        got, want = f.get(key), plain(value)
        assert f.has(key) and type(got) is type(want), key
        np.testing.assert_array_equal(got, want, err_msg=key)
        if isinstance(want, (np.ndarray, list)):
            assert f.array_len(key) == len(want)
    assert list(f.tensors()) == list(TENSORS)
    for name, tensor in TENSORS.items():
        info, stored = f.tensors()[name], f.tensor_data(name)
        raw = tensor.data if isinstance(tensor, w.Encoded) else tensor.tobytes()
        assert (info.name, info.shape, info.n_bytes) == (name, tensor.shape, len(raw))
        assert stored.tobytes() == raw == data[info.offset : info.offset + info.n_bytes]
    assert [t.format for t in f.tensors().values()] == ["q8_0", "q4_1", "f32", "f16"]


def test_array_dtypes_are_those_of_the_file(write):
    f = GgufFile(write(w.gguf_bytes(METADATA, {})))
    for key in ("scores", "types", "bytes", "flags", "wide", "doubles"):
        assert f.get(key).dtype == METADATA[key].dtype


def test_nested_arrays(write):
    f = GgufFile(write(w.gguf_bytes({"nested": NESTED}, {})))
    numbers, strings, deeper = f.get("nested")
    assert numbers.tolist() == [1, 2] and strings == ["a", "b"] and deeper[0].tolist() == [True]
    assert f.array_len("nested") == 3
    assert GgufFile(write(w.nested(4))).array_len("k") == 1  # as deep as is read


def test_missing_keys_and_tensors(write):
    f = GgufFile(write(w.gguf_bytes(METADATA, TENSORS)))
    assert not f.has("absent") and f.get("absent") is None and f.get("absent", 5) == 5
    with pytest.raises(ModelFileError, match="metadata key 'absent': is missing"):
        f.array_len("absent")
    with pytest.raises(ModelFileError, match="metadata key 'u8': the value is a u8, wanted an array"):
        f.array_len("u8")
    with pytest.raises(ModelFileError, match="tensor 'absent': is missing"):
        f.tensor_data("absent")


def test_tensor_data_is_read_only_and_outlives_the_file_object(write):
    f = GgufFile(write(w.gguf_bytes(METADATA, TENSORS)))
    view = f.tensor_data("experts")
    want = view.tobytes()
    del f
    gc.collect()
    assert view.tobytes() == want
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.setflags(write=True)


def test_strings_that_are_not_utf8_are_refused_when_asked_for(write):
    f = GgufFile(write(w.gguf_bytes({"bad": b"ab\xff", "list": [b"ok", b"\xed\xa0\x80"]}, {})))
    for key in ("bad", "list"):
        with pytest.raises(ModelFileError, match=f"metadata key '{key}': a string is not UTF-8"):
            f.get(key)
    assert f.array_len("list") == 2


def test_agrees_with_the_reference_reader(write):
    gguf = pytest.importorskip("gguf")
    path = write(w.gguf_bytes(METADATA, TENSORS))
    ours, theirs = GgufFile(path), gguf.GGUFReader(path)
    assert ours.keys() == [k for k in theirs.fields if not k.startswith("GGUF.")]
    for key in METADATA:
        want = theirs.get_field(key).contents()
        np.testing.assert_array_equal(ours.get(key), want if want is not None else [], err_msg=key)
    for t in theirs.tensors:
        info = ours.tensors()[t.name]
        want_shape = tuple(int(d) for d in reversed(t.shape))
        assert (info.shape, info.format) == (want_shape, t.tensor_type.name.lower())
        assert (info.offset, info.n_bytes) == (t.data_offset, t.n_bytes)
        assert ours.tensor_data(t.name).tobytes() == t.data.tobytes()


keys = st.text(min_size=1, max_size=9)
scalars = st.one_of(st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(width=32), st.text(max_size=9))
lists = st.one_of(st.lists(st.text(max_size=5), max_size=5), st.lists(st.integers(0, 2**32 - 1), max_size=5))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(keys, st.one_of(scalars, lists), max_size=6), st.sampled_from([2, 3]))
def test_any_metadata_comes_back(write, metadata, version):
    f = GgufFile(write(w.gguf_bytes(metadata, {}, version=version)))
    assert f.keys() == list(metadata)
    for key, value in metadata.items():
        np.testing.assert_array_equal(f.get(key), plain(value))


def test_opening_a_large_vocabulary_is_quick(write):
    words = [f"token {i}" for i in range(50_000)]
    path = write(w.gguf_bytes({"tokens": words, "merges": words}, {}))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        f = GgufFile(path)
        times.append(time.perf_counter() - start)
    assert f.array_len("tokens") == 50_000 and f.get("merges") == words
    assert min(times) < 0.030  # a reader in Python takes half a second


# ---- files that the system refuses -------------------------------------------------------------


def test_paths_that_cannot_be_opened(tmp_path, write):
    with pytest.raises(FileNotFoundError) as missing:
        GgufFile(str(tmp_path / "żółw.gguf"))
    assert missing.value.filename == str(tmp_path / "żółw.gguf")
    with pytest.raises(IsADirectoryError) as folder:
        GgufFile(str(tmp_path))
    assert folder.value.filename == str(tmp_path)
    with pytest.raises(ModelFileError, match=r"model\.gguf: the file is empty"):
        GgufFile(write(b""))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="pipe: is not a regular file"):
        GgufFile(str(tmp_path / "pipe"))
    with pytest.raises(ValueError, match="null"):
        GgufFile("a\0b")
    odd = os.fsencode(tmp_path) + b"/\xff.gguf"
    Path(os.fsdecode(odd)).write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"\\xff\.gguf: is not a GGUF file"):
        GgufFile(os.fsdecode(odd))


# ---- malformed files, in a child so that a crash is seen -----------------------------------------

CHILD = """
import json, sys
from gguf_writer import mutants
from lanner._core import GgufFile, ModelFileError, UnsupportedModelError

def read_all(path):
    f = GgufFile(path)
    for name in f.tensors():
        int(f.tensor_data(name).sum())
    for key in f.keys():
        f.get(key)

def outcome(path):
    try:
        read_all(path)
    except Exception as e:
        return type(e).__name__, str(e)
    return "ok", ""

job = json.load(sys.stdin)
if "paths" in job:
    print(json.dumps([outcome(p) for p in job["paths"]]))
else:
    data, seen = open(job["seed_file"], "rb").read(), {}
    for mutant in mutants(data, job["n"], job["seed"]):
        with open(job["scratch"], "wb") as out:
            out.write(mutant)
        name, _ = outcome(job["scratch"])
        seen[name] = seen.get(name, 0) + 1
    print(json.dumps(seen))
"""


def in_child(job: dict[str, Any]) -> Any:
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(
        command, input=json.dumps(job), env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"the child ended with {done.returncode}: {done.stderr[-4000:]}"
    return json.loads(done.stdout)


def outcomes(folder: Path, files: list[bytes]) -> list[tuple[str, str]]:
    paths = [folder / f"{i}.gguf" for i in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    return [(name, message) for name, message in in_child({"paths": [str(p) for p in paths]})]


@pytest.mark.parametrize(
    ("error", "cases"), [(ModelFileError, w.MALFORMED), (UnsupportedModelError, w.UNSUPPORTED)]
)
def test_bad_fields_are_refused_by_name(tmp_path, error, cases):
    results = outcomes(tmp_path, [data for data, _ in cases.values()])
    for i, (case, (_, wanted)) in enumerate(cases.items()):
        name, message = results[i]
        assert name == error.__name__, f"{case}: {name}: {message}"
        assert wanted in message and message.startswith(str(tmp_path / f"{i}.gguf: ")), f"{case}: {message}"


def test_every_truncation_is_refused(tmp_path, write):
    data = w.gguf_bytes(METADATA, TENSORS)
    tensors = GgufFile(write(data)).tensors().values()
    end = max(t.offset + t.n_bytes for t in tensors)  # padding may follow
    cuts = [data[:n] for n in range(end)] + [data[: len(data) * i // 64] for i in range(64)]
    assert {name for name, _ in outcomes(tmp_path, cuts)} == {"ModelFileError"}


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_files_parse_or_are_refused(tmp_path, seed):
    (tmp_path / "seed.gguf").write_bytes(w.gguf_bytes({**METADATA, "nested": NESTED}, TENSORS, alignment=8))
    files = {"seed_file": str(tmp_path / "seed.gguf"), "scratch": str(tmp_path / "mutant.gguf")}
    seen = in_child({**files, "n": 3000, "seed": seed})
    assert set(seen) <= {"ok", "ModelFileError", "UnsupportedModelError"}, seen
    assert seen["ok"] > 100 and seen["ModelFileError"] > 100, seen
