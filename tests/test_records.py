"""`lanner._records.dataclass` beside the one of the standard library, in all that the library offers."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest

import lanner
from lanner import _records
from lanner.result import Usage

MAKERS = {"ours": _records, "standard": dataclasses}
MISUSES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((1,), {}),
    ((1, 2, 3, 4, 5), {}),
    ((1, 2), {"a": 3}),
    ((1, 2), {"e": 3}),
]


def classes(made: Any) -> tuple[type, ...]:
    """The options that the library uses, from either module."""

    @made.dataclass(frozen=True, slots=True)
    class Fixed:
        """Doc."""

        a: int
        b: int
        c: tuple[int, ...] = (1, 2)

        @property
        def total(self) -> int:
            return self.a + self.b

    @made.dataclass
    class Open:
        a: int
        b: int = 2
        c: list[int] = made.field(default_factory=list)

    @made.dataclass(frozen=True, kw_only=True)
    class Keywords:
        a: int
        b: int = 2

    @made.dataclass(frozen=True, kw_only=True)
    class More(Keywords):
        c: int
        d: tuple[int, ...] = made.field(default=(), repr=False)

    @made.dataclass(eq=False)
    class Own:
        a: int
        b: int = 0
        kind = "no field"

        def __post_init__(self) -> None:
            self.b += 1

    return Fixed, Open, Keywords, More, Own


def outcome(call: Any) -> Any:
    try:
        return call()
    except (TypeError, AttributeError) as error:
        return type(error)


def behaviour(made: Any) -> list[Any]:
    """What can be seen of the classes, as values that are equal where they behave alike."""
    fixed, opened, keywords, more, own = classes(made)
    seen: list[Any] = []
    for call in (
        lambda: fixed(1, 2), lambda: fixed(1, b=2, c=(3,)), lambda: opened(1), lambda: opened(1, c=[5]),
        lambda: keywords(a=1), lambda: keywords(1), lambda: more(a=1, c=4, d=(9,)), lambda: own(5),
    ):  # fmt: skip
        seen.append(repr(outcome(call)))
    for cls in (fixed, opened, keywords, more, own):
        seen += [outcome(lambda cls=cls, u=u: type(cls(*u[0], **u[1])).__name__) for u in MISUSES]
        seen += [cls.__match_args__, str(inspect.signature(cls)), cls.__doc__ if cls is fixed else None]
        seen.append([(f.name, f.type, f.kw_only, f.repr) for f in dataclasses.fields(cls)])
    one = fixed(1, 2)
    seen += [one == fixed(1, 2), one == fixed(1, 3), one == 1, hash(one) == hash((1, 2, (1, 2))), one.total]
    seen += [outcome(lambda: setattr(one, "a", 3)), outcome(lambda: delattr(one, "a"))]
    seen += [outcome(lambda: setattr(own(1), "anything", 3)), outcome(lambda: hash(opened(1)))]
    seen += [
        repr(made.replace(one, b=7)),
        repr(dataclasses.replace(one, b=7)),
        dataclasses.asdict(more(a=1, c=2)),
    ]
    seen += [copy.copy(one) == one, copy.deepcopy(one) == one, opened(1).c is opened(1).c]
    seen += [own(1) == own(1), more(a=1, c=2) == keywords(a=1), hasattr(one, "__dict__")]
    return seen


def test_like_the_standard_library() -> None:
    ours, standard = (behaviour(made) for made in MAKERS.values())
    for mine, theirs in zip(ours, standard, strict=True):
        assert mine == theirs


def test_a_misuse_is_named() -> None:
    fixed, *_ = classes(_records)
    for args, options, wanted in (
        ((), {}, "misses 'a', 'b'"),
        ((1, 2, 3, 4), {}, "takes 3 positional arguments but 4 were given"),
        ((1,), {"a": 2, "b": 3}, "multiple values for argument 'a'"),
        ((1, 2), {"x": 3}, "unexpected keyword argument 'x'"),
    ):
        with pytest.raises(TypeError, match=wanted):
            fixed(*args, **options)


def test_public_values_match_and_travel_between_processes() -> None:
    usage = Usage(3, 4)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for value in (usage, lanner.SamplingParams(seed=3, stop="x")):
            assert pickle.loads(pickle.dumps(value, protocol)) == value
    assert dataclasses.is_dataclass(usage)
    match usage:
        case Usage(prompt_tokens, 4):
            assert prompt_tokens == 3
        case _:
            pytest.fail("no match")
    with pytest.raises(dataclasses.FrozenInstanceError):
        usage.prompt_tokens = 4


def test_a_first_token_imports_neither_of_these(smollm2_path: Any) -> None:
    """Each costs a cold start 5 to 40 ms: the file's text needs none, nor regular expressions beyond `re`."""
    unwanted = (
        "asyncio", "dataclasses", "inspect", "jinja2", "json", "lanner._estimate", "lanner.beams", "logging",
        "numpy", "regex", "rich", "ssl", "unicodedata",
    )  # fmt: skip
    code = (
        "import sys; before = set(sys.modules); import lanner\n"
        "with lanner.load(sys.argv[1]) as model:\n"
        "    assert next(iter(model.stream('Hello, world 12!', max_tokens=1))).token\n"
        f"print(*sorted(set({unwanted}) & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(smollm2_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
