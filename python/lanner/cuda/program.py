"""A program of the GPU: launches over device memory, and what is read of a step on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lanner._core import DeviceError
from lanner.cuda.arena import lay_out, places_of
from lanner.cuda.kv_cache import DeviceCaches
from lanner.cuda.lowering import Lowering
from lanner.cuda.symbols import CachePart, Launch, Matrix, Order, Place, Rows, StepArray, Vector
from lanner.cuda.weights import DeviceWeight, upload, upload_plain, vector, weight_bytes
from lanner.program import ITEM_BYTES

if TYPE_CHECKING:
    import numpy.typing as npt

    from lanner import _core
    from lanner.builder import Builder, Instruction
    from lanner.phases import Value


class CudaProgram:
    """The lists of a model, and their memory once `place` has taken it.

    Args:
        builder: the instructions, those of the CPU.
        logits, sampled: the values that are read after a step.
        n_kv_heads, head_dim: of a layer.
        max_tokens, max_outputs: the largest step.
        graph_rows: the most rows of a decode step, which is recorded as a graph.

    Raises UnsupportedModelError where an operation has no kernel, or none for the sizes of the model.
    """

    def __init__(
        self,
        builder: Builder,
        logits: Value,
        sampled: Value,
        n_kv_heads: int,
        head_dim: int,
        max_tokens: int,
        max_outputs: int,
        graph_rows: int,
    ) -> None:
        self.instructions: list[Instruction] = builder.instructions
        self.kept = logits, sampled
        low = Lowering(self.instructions, logits, sampled, n_kv_heads, head_dim)
        self.lists = {"decode": low.launches(decode=True), "other": low.launches(decode=False)}
        places = {place for made in self.lists.values() for i in made for place in places_of(i.args)}
        self._widths = {place: self._width(place, low) for place in places}
        self._apart = {value.place for value in self.kept}
        most = {"decode": min(graph_rows, max_tokens), "other": max_tokens}
        self._layouts = {
            name: lay_out(made, self._widths, {"tokens": most[name], "outputs": max_outputs}, self._apart)
            for name, made in self.lists.items()
        }
        self._kept_bytes = {v.place: v.cols * self._widths[v.place] * max_outputs for v in self.kept}
        self._max_outputs, self._graph_rows = max_outputs, graph_rows
        self._plain: set[Matrix] = set()
        self._held: dict[Any, Any] = {}  # what is in device memory, by what it is
        self._rows: npt.NDArray[np.float32] | None = None
        self._n_read = 0

    def _width(self, place: Place, low: Lowering) -> int:
        """Bytes of an element: activations are bfloat16, but tables, logits and ids are not."""
        is_table = any(i.op == "rope_table" and i.args["out"].place is place for i in low.list)
        if is_table or place in low.float32 or place.dtype != "float32":
            return ITEM_BYTES[place.dtype]
        return 2

    @property
    def arena_bytes(self) -> int:
        """Bytes of all values."""
        return max(n_bytes for _, n_bytes in self._layouts.values()) + sum(self._kept_bytes.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, those that are there in a second order counted twice."""
        weights = [i.args.get("weight") for i in self.instructions]
        packed: int = weight_bytes([w for w in weights if isinstance(w, DeviceWeight)])
        plain: int = sum(matrix.weight.nbytes for matrix in self._plain)
        return packed + plain

    # --- memory ---------------------------------------------------------------------------------------------
    def keep_plain(self, library: Any, most: int) -> int:
        """Lets an H100 have weights in row-major order too, for its matmul of many rows, in `most` bytes.

        Returns what they take: 0 on other GPUs and where not all have room.
        """
        if library.device_info()["sm_version"] != 90:
            return 0
        plain = {
            i.args["weight"]
            for i in self.lists["other"]
            if i.op == "linear" and "out" in i.args and i.args["weight"].weight.type == "bf16"
        }
        n_bytes: int = sum(matrix.weight.nbytes for matrix in plain)
        if n_bytes > most:
            return 0
        self._plain = plain
        return n_bytes

    def place(
        self,
        library: Any,
        caches: DeviceCaches,
        step: _core.Step,
        max_keys: int,
        groups: Sequence[tuple[int, int]],
    ) -> None:
        """Takes memory for all that the launches name, and brings weights there."""
        embed = next(i for i in self.instructions if i.op == "embed")
        sizes = {
            "max_tokens": step.max_tokens,
            "max_seqs": step.max_seqs,
            "max_outputs": step.max_outputs,
            "max_pages": step.max_pages,
            "n_groups": step.n_groups,
            "max_keys": max_keys,
            "n_positions": self._n_positions(max_keys),
        }
        self._library, self._step = library, step
        self.core = library.Program(sizes, step.memoryviews(), embed.args["weight"].shape[0], list(groups))
        self._fields = [self.core.step_fields(group) for group in range(step.n_groups)]
        self._arena = library.DeviceArray(max(n_bytes for _, n_bytes in self._layouts.values()))
        self._kept = {place: library.DeviceArray(n_bytes) for place, n_bytes in self._kept_bytes.items()}
        for steps, made in self.lists.items():
            for launch in made:
                args = self._resolved(launch.args, steps)
                if steps == "other" and launch.op == "linear" and launch.args["weight"] in self._plain:
                    args["plain"] = self._row_major(*launch.args["weight"])
                if launch.op == "linear":
                    args |= self._linear_workspace()
                if launch.op == "attention_decode":
                    args |= self._workspace(args, step, max_keys)
                if launch.op == "sample":
                    args |= self._scratch(step.max_outputs * library.SAMPLE_SCRATCH_BYTES)
                self.core.add(steps, launch.op, launch.name, args)
        self.core.set_ids(self._kept[self.kept[1].place], 0)

    def _n_positions(self, max_keys: int) -> int:
        """Positions that tables of learned ones have; where there is none, those of a sequence."""
        tables = [i.args for i in self.instructions if i.op == "add_positions"]
        sizes = [np.asarray(a["table"]).size // a["out"].cols - a["offset"] for a in tables]
        return min(sizes, default=max_keys)

    def _row_major(self, weight: DeviceWeight, order: Order) -> Any:
        return self._hold(("plain", id(weight), order), lambda: upload_plain(self._library, weight, order))

    def _resolved(self, args: dict[str, Any], steps: str) -> dict[str, Any]:
        return {name: self._address(value, steps, args) for name, value in args.items() if value is not None}

    def _address(self, value: Any, steps: str, args: dict[str, Any]) -> Any:
        if isinstance(value, Place):
            return self._kept.get(value) or (self._arena, self._layouts[steps][0][value])
        if isinstance(value, dict):
            return self._resolved(value, steps)
        if isinstance(value, Matrix):
            return self._hold((id(value.weight), value.order), lambda: upload(self._library, *value))
        if isinstance(value, Vector):
            n_rows = args["weight"].weight.shape[0] if value.order else 0
            key = id(value.values), value.dtype, value.order
            return self._hold(key, lambda: self._array(vector(*value, n_rows)))
        if isinstance(value, StepArray):
            return self._fields[value.group][value.name]
        if isinstance(value, Rows):
            array, offset = self._fields[0]["counts"]
            return value.kind, (array, offset + (0 if value.kind == "tokens" else 8))
        if isinstance(value, CachePart):
            return value.cache.array, value.cache.offset(value.layer)
        return value

    def _hold(self, key: Any, make: Any) -> Any:
        if key not in self._held:
            self._held[key] = make()
        return self._held[key]

    def _array(self, values: npt.NDArray[Any]) -> Any:
        array = self._library.DeviceArray(max(1, values.nbytes))
        array.upload(np.ascontiguousarray(values))
        return array

    def _workspace(self, args: dict[str, Any], step: _core.Step, max_keys: int) -> dict[str, Any]:
        """What blocks of a split attention leave for the last; one layer after the other uses it."""
        most = min(self._graph_rows, 2 * step.max_seqs - 1)
        buckets = [1 << i for i in range(most.bit_length())]
        bounds = [{"n_tokens": b, "n_seqs": b, "n_outputs": b, "n_keys": max_keys} for b in buckets]
        needs = [self._library.attention_workspace(b, **args) for b in bounds]
        n_bytes, n_counters = (max(1, *column) for column in zip(*needs, strict=True))
        key = "workspace", n_bytes, n_counters
        workspace, counters = self._hold(
            key, lambda: (self._library.DeviceArray(n_bytes), self._library.DeviceArray(4 * n_counters))
        )
        return {
            "workspace": workspace,
            "workspace_bytes": n_bytes,
            "counters": counters,
            "n_counters": n_counters,
        }

    def _linear_workspace(self) -> dict[str, Any]:
        """What becomes of the tokens of a matmul of quantized weights; one matmul after the other uses it."""
        n_bytes: int = self._hold("linear_workspace_bytes", self._linear_workspace_bytes)
        if not n_bytes:
            return {}
        workspace = self._hold("linear_workspace", lambda: self._library.DeviceArray(n_bytes))
        return {"workspace": workspace, "workspace_bytes": n_bytes}

    def _linear_workspace_bytes(self) -> int:
        matmuls = [i for made in self.lists.values() for i in made if i.op == "linear"]
        weights: list[DeviceWeight] = [i.args["weight"].weight for i in matmuls]
        types = self._library.WeightType
        needs: list[int] = [self._library.linear_workspace(getattr(types, w.type), *w.shape) for w in weights]
        return max(needs)

    def _scratch(self, n_bytes: int) -> dict[str, Any]:
        """What the kernels of sampling leave for each other."""
        scratch = self._hold("scratch", lambda: self._library.DeviceArray(n_bytes))
        return {"scratch": scratch, "scratch_bytes": n_bytes}

    # --- steps ----------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Run the step that the arrays describe."""
        self._n_read = 0
        self.core.run(self._step.n_tokens, self._step.n_seqs, self._step.n_outputs)

    def array(self, kept: Value, n_rows: int) -> npt.NDArray[np.float32]:
        """The first rows (n_rows, cols) of the logits; a copy on the host that the next run overwrites."""
        if not 0 <= n_rows <= self._max_outputs:
            raise ValueError(f"array: {n_rows} rows, the program has {self._max_outputs}")
        if self._rows is None:
            self._rows = np.empty((self._max_outputs, kept.cols), np.float32)
        if n_rows > self._n_read:
            first = self._n_read
            self.core.read(self._rows[first:n_rows], self._kept[kept.place], first * kept.cols * 4)
            self._n_read = n_rows
        return self._rows[:n_rows]

    def memoryview(self, kept: Value, n_rows: int) -> memoryview[float]:
        """The same as a memoryview."""
        return memoryview(self.array(kept, n_rows))  # type: ignore[arg-type]

    def ids(self, kept: Value, n_rows: int) -> list[int]:
        """The first rows of the ids that were chosen."""
        ids: list[int] = self.core.ids[:n_rows]
        return ids

    def interpret(self, step: object) -> None:
        """No program of a GPU runs in Python: DeviceError."""
        raise DeviceError("interpret: a program of a GPU does not run in Python; load with device='cpu'")

    def dump(self, step: object = None) -> str:
        """A line for every launch of both lists; they are the same for every step."""
        lines = []
        for steps, made in self.lists.items():
            lines += [f"-- {steps}", *(describe(launch) for launch in made)]
        return "\n".join(lines)


def describe(launch: Launch) -> str:
    """Name, operation and what it reads and writes."""
    return f"{launch.name:<24} {launch.op:<18} {' '.join(_parts(launch.args))}"


def _parts(args: dict[str, Any]) -> Iterator[str]:
    for name, value in args.items():
        if isinstance(value, Place):
            yield f"{name}={value.name}"
        elif isinstance(value, Matrix):
            yield f"{name}={value.weight.shape} {value.weight.format} {value.order.kind}"
        elif isinstance(value, dict):
            yield from _parts(value)
        elif isinstance(value, Rows):
            yield f"rows={value.kind}"
        elif isinstance(value, (bool, int, float)):
            yield f"{name}={value:g}"
