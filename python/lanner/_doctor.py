"""What Lanner finds on this machine and how fast the machine is; measured once, kept in the cache folder."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from lanner._cache import cache_folder, write_atomically
from lanner._machine import cpu_name, last_level_cache_bytes
from lanner._memory import available_bytes, memory_bytes
from lanner._threads import default_threads

_STORE_LIMIT_BYTES = 1 << 20
_FASTEST = 1e18  # per second: a thousand times what any one machine reads or computes
_PACKAGES = ("lanner", "numpy", "regex", "jinja2", "rich", "tokenizers")


@dataclass(frozen=True)
class Speed:
    """Measured limits of a machine: bytes read from memory, and float32 multiply-adds, per second."""

    n_threads: int
    read_bandwidth_1: float
    read_bandwidth: float
    fma_1: float
    fma: float


@dataclass(frozen=True)
class Doctor:
    """The report of `doctor`; `str()` of it is what `lanner doctor` prints."""

    cpu: str
    isa: str
    gpu: str
    n_threads: int
    thread_limits: tuple[tuple[str, str], ...]
    memory_total_bytes: int
    memory_available_bytes: int
    cache_folder: Path
    versions: Mapping[str, str]
    speed: Speed | None

    def __str__(self) -> str:
        total, available = self.memory_total_bytes / 2**30, self.memory_available_bytes / 2**30
        memory = f"{total:.1f} GiB, {available:.1f} GiB available" if total else "unknown"
        lines = [
            ("processor", self.cpu),
            ("kernels", self.isa),
            ("GPU", self.gpu),
            ("threads", f"{self.n_threads} (the least of the limits below)"),
            *((f"  {what}", limit) for what, limit in self.thread_limits),
            ("memory", memory),
            *self._speed_lines(),
            ("cache folder", str(self.cache_folder)),
            *((f"  {model}", size) for model, size in _cached_models(self.cache_folder)),
            ("versions", ", ".join(f"{name} {version}" for name, version in self.versions.items())),
        ]
        return "\n".join(f"{what:<24}{value}" for what, value in lines)

    def _speed_lines(self) -> list[tuple[str, str]]:
        if self.speed is None:
            return [("speed", "not measured: the compiled kernels are missing")]
        speed, threads = self.speed, f"{self.speed.n_threads} threads"
        bandwidth = f"{speed.read_bandwidth_1 / 1e9:.1f} GB/s with 1 thread"
        fma = f"{speed.fma_1 / 1e9:.1f} billion per second with 1 thread"
        if speed.n_threads > 1:
            bandwidth += f", {speed.read_bandwidth / 1e9:.1f} GB/s with {threads}"
            fma += f", {speed.fma / 1e9:.1f} with {threads}"
        return [("read bandwidth", bandwidth), ("float32 multiply-adds", fma)]


def doctor(*, refresh: bool = False) -> Doctor:
    """Describes this machine; measures its speed unless that is cached and `refresh` is not set."""
    _, isa = _load_core()
    n_threads, limits = default_threads()
    speed = speed_with(n_threads, refresh=refresh)
    total, _ = memory_bytes() or (0, 0)
    return Doctor(
        cpu=cpu_name(),
        isa=isa,
        gpu=_gpu(),
        n_threads=n_threads,
        thread_limits=tuple(limits),
        memory_total_bytes=total,
        memory_available_bytes=available_bytes() or 0,
        cache_folder=cache_folder(),
        versions=_versions(),
        speed=speed,
    )


def speed_with(n_threads: int, *, refresh: bool = False) -> Speed | None:
    """Limits of this machine with so many threads: as measured before, else now; None without the kernels."""
    speed = None if refresh else _cached_speed(n_threads)
    if speed is None:
        core, _ = _load_core()
        speed = _measure(core, n_threads) if core else None
        if speed is not None:
            _keep(speed)
    return speed


def cached_bandwidth() -> float | None:
    """Bytes per second that all threads together read from memory, or None if it was never measured."""
    speed = _cached_speed(default_threads()[0])
    return speed.read_bandwidth if speed else None


def _load_core() -> tuple[ModuleType | None, str]:
    """The compiled module, and the name of its instruction set or the reason why it cannot be loaded."""
    try:
        core = importlib.import_module("lanner._core")
        return core, str(core.isa())
    except (ImportError, AttributeError) as error:
        return None, f"cannot be loaded: {error}"


def _gpu() -> str:
    """The GPU that device="cuda" would use, or why there is none."""
    try:
        from lanner.cuda.library import describe
    except ImportError as error:  # without the compiled module there are no kernels of any kind
        return f"unknown: {error}"
    return describe()


def _measure(core: ModuleType, n_threads: int) -> Speed | None:
    if not (hasattr(core, "probe_read_bandwidth") and hasattr(core, "probe_fma")):
        return None
    # Four times the last cache, so that at most a quarter can be served from it; 256 MiB where it is unknown
    # or small. Never more than a quarter of what is free.
    available = available_bytes()
    n_bytes = max(256 << 20, 4 * last_level_cache_bytes())
    if available:
        n_bytes = min(n_bytes, max(available // 4, 16 << 20))

    bandwidth_1, fma_1 = core.probe_read_bandwidth(1, n_bytes), core.probe_fma(1)
    if n_threads == 1:
        return Speed(1, bandwidth_1, bandwidth_1, fma_1, fma_1)
    bandwidth, fma = core.probe_read_bandwidth(n_threads, n_bytes), core.probe_fma(n_threads)
    return Speed(n_threads, bandwidth_1, bandwidth, fma_1, fma)


def _store() -> Path:
    return cache_folder() / "doctor.json"


def _machine_key(n_threads: int) -> str:
    """Names what a measurement holds for: a home folder may be shared by different machines."""
    total, _ = memory_bytes() or (0, 0)
    return f"{cpu_name()} | {platform.machine()} | {n_threads} threads | {round(total / 2**30)} GiB"


def _stored() -> dict[str, object]:
    """The measurements of all machines; {} if there are none or the file is not ours."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if os.path.getsize(_store()) <= _STORE_LIMIT_BYTES:
            stored = json.loads(_store().read_text(encoding="utf-8"))
            if isinstance(stored, dict):
                return stored
    return {}


def _cached_speed(n_threads: int) -> Speed | None:
    found = _stored().get(_machine_key(n_threads))
    if not isinstance(found, dict):
        return None
    numbers = [found.get(name) for name in Speed.__dataclass_fields__]
    # JSON's true is an int to Python; a comparison also refuses nan, infinity and integers of any length.
    if not all(isinstance(n, (int, float)) and n is not True and 0 < n < _FASTEST for n in numbers):
        return None
    return Speed(**{name: found[name] for name in Speed.__dataclass_fields__})


def _keep(speed: Speed) -> None:
    """Adds a measurement to the store; a cache folder that cannot be written costs a new one next time."""
    with contextlib.suppress(OSError):
        measured = _stored() | {_machine_key(speed.n_threads): asdict(speed)}
        write_atomically(_store(), json.dumps(measured, indent=1))


def _versions() -> dict[str, str]:
    from importlib import metadata  # costs more than the rest of this module

    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _cached_models(folder: Path) -> list[tuple[str, str]]:
    """(name, size) of every model in the cache."""
    found = []
    for model in sorted(path for path in (folder / "models").glob("*") if path.is_dir()):
        n_bytes = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
        found.append((model.name, f"{n_bytes / 1e6:.1f} MB"))
    return found
