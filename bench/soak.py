"""Random requests from many threads for some minutes: no error, the same answers, flat memory.

    python bench/soak.py --minutes 20

Every thread sends requests of random kinds and lengths, cancels some, gives some a deadline, and makes
mistakes that must be refused. A request that is repeated must give the same tokens, however busy the engine
is. The exit status is 0 only where nothing was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import lanner
from lanner.bench.model_run import PROMPT

GROWTH_MB = 32
"""What memory may grow by once every kind of request has run for a while: as much as an allocator's arenas
differ from run to run. A leak of a single page of the cache per request would be hundreds."""

WARM_UP_SHARE = 0.4
"""Of the time; memory is compared with what it was then at most."""

WORDS = PROMPT.read_text(encoding="utf-8").split()


class Soak:
    """A loaded model and what has happened to it."""

    def __init__(self, model: lanner.Model, seed: int) -> None:
        self.model = model
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.known: dict[tuple[Any, ...], tuple[list[int], str]] = {}
        self.lock = threading.Lock()
        self.is_over = threading.Event()

    def work(self, index: int) -> None:
        """One thread: requests until the time is over."""
        rng = random.Random(self.seed * 1000 + index)
        kinds = [generate, generate, many, stream, astream, cancel, cancel_stream, deadline, score, mistake]
        while not self.is_over.is_set():
            kind = rng.choice(kinds)
            try:
                outcome = kind(self, rng)
            except Exception as error:  # whatever it is, it is reported and the others go on
                self.errors.append(f"{kind.__name__}: {type(error).__name__}: {error}")
                outcome = "error"
            with self.lock:
                self.counts[f"{kind.__name__}: {outcome}"] += 1

    def check_repeats(self, key: tuple[Any, ...], result: Any) -> None:
        """The same request gives the same tokens and the same text, whatever runs beside it."""
        found = (list(result.tokens), result.text)
        with self.lock:
            known = self.known.setdefault(key, found)
        if known != found:
            raise AssertionError(f"{key} gave {found} and before {known}")


def prompt(rng: random.Random, most: int = 300) -> str:
    """Few starts and many lengths: prefixes are shared."""
    first, n = rng.choice((0, 50, 100)), int(1 + (most - 1) * rng.random() ** 3)
    return " ".join(WORDS[(first + i) % len(WORDS)] for i in range(n))


def options(rng: random.Random) -> dict[str, Any]:
    chosen: dict[str, Any] = {"max_tokens": rng.choice((1, 4, 16, 48)), "seed": rng.randrange(3)}
    if rng.random() < 0.6:
        chosen["temperature"] = rng.choice((0.5, 1.0))
        chosen |= rng.choice(({}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05}, {"typical_p": 0.9}))
    if rng.random() < 0.3:
        chosen |= rng.choice(({"repetition_penalty": 1.2}, {"frequency_penalty": 0.5}, {"bad_words": "the"}))
    if rng.random() < 0.1:
        chosen["priority"] = rng.randrange(3)
    return chosen


def generate(soak: Soak, rng: random.Random) -> str:
    text, chosen = prompt(rng), options(rng)
    result = soak.model.generate(text, **chosen)
    chosen.pop("priority", None)
    soak.check_repeats((text, *sorted(chosen.items())), result)
    return result.finish_reason


def many(soak: Soak, rng: random.Random) -> str:
    texts, chosen = [prompt(rng, 60) for _ in range(rng.randrange(1, 6))], options(rng)
    n = rng.choice((1, 1, 3))
    for text, result in zip(texts, soak.model.generate(texts, n=n, **chosen), strict=True):
        first = result if n == 1 else result[0]
        soak.check_repeats((text, *sorted((k, v) for k, v in chosen.items() if k != "priority")), first)
    return "done"


def stream(soak: Soak, rng: random.Random) -> str:
    text, chosen = prompt(rng), options(rng)
    chunks = list(soak.model.stream(text, **chosen))
    if "".join(chunk.text for chunk in chunks) != chunks[-1].result.text:
        raise AssertionError("the chunks of a stream are not its text")
    chosen.pop("priority", None)
    soak.check_repeats((text, *sorted(chosen.items())), chunks[-1].result)
    return chunks[-1].finish_reason


def astream(soak: Soak, rng: random.Random) -> str:
    async def read() -> int:
        return len([chunk async for chunk in soak.model.astream(prompt(rng, 50), **options(rng))])

    return "done" if asyncio.run(read()) else "nothing"


def cancel(soak: Soak, rng: random.Random) -> str:
    handle = soak.model.submit(prompt(rng), max_tokens=400, ignore_eos=True)
    time.sleep(rng.random() * 0.05)
    handle.cancel()
    return handle.result(timeout=60).finish_reason


def cancel_stream(soak: Soak, rng: random.Random) -> str:
    with soak.model.stream(prompt(rng), max_tokens=400, ignore_eos=True) as chunks:
        for _ in range(rng.randrange(4)):
            next(chunks)
    return "left"


def deadline(soak: Soak, rng: random.Random) -> str:
    limit_ms = rng.choice((1, 20, 100, 10_000))
    return soak.model.generate(
        prompt(rng), max_tokens=64, deadline_ms=limit_ms, ignore_eos=True
    ).finish_reason


def score(soak: Soak, rng: random.Random) -> str:
    found = soak.model.score(prompt(rng, 100))
    if not (found.logprobs <= 0).all():
        raise AssertionError("a log-probability above 0")
    return "done"


MISTAKES: list[Callable[[lanner.Model], object]] = [
    lambda m: m.generate("a", temperature=-1),
    lambda m: m.generate("a", temprature=1),
    lambda m: m.generate([10**9]),
    lambda m: m.generate([]),
    lambda m: m.generate("word " * (m.info().context + 1)),
    lambda m: m.generate("a", stop=[""]),
    lambda m: m.score(""),
]


def mistake(soak: Soak, rng: random.Random) -> str:
    number = rng.randrange(len(MISTAKES))
    try:
        found = MISTAKES[number](soak.model)
    except (ValueError, TypeError) as error:
        return type(error).__name__
    if found != []:
        raise AssertionError(f"mistake {number} was not refused")
    return "empty"


def resident_mb() -> float:
    """Memory of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def watch(soak: Soak, minutes: float) -> tuple[float, float]:
    """Waits for the end; (most memory until the warm-up was over, most after it) in MB."""
    start, most = time.monotonic(), [0.0, 0.0]
    end = start + 60 * minutes
    while (now := time.monotonic()) < end and not soak.errors:
        half = int(now > start + WARM_UP_SHARE * (end - start))
        most[half] = max(most[half], resident_mb())
        time.sleep(0.2)
    return most[0], most[1]


def main() -> int:
    """Runs, prints what happened, and returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--callers", type=int, default=16, help="threads that send requests")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, help="threads of the model")
    parser.add_argument(
        "--max-memory", type=int, help="bytes, as lanner.load takes it: pages run out earlier"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with lanner.load(
        given.model, context=given.context, threads=given.threads, max_memory=given.max_memory
    ) as model:
        soak = Soak(model, given.seed)
        threads = [threading.Thread(target=soak.work, args=(i,)) for i in range(given.callers)]
        for thread in threads:
            thread.start()
        before, after = watch(soak, given.minutes)
        soak.is_over.set()
        for thread in threads:
            thread.join(120)
        hanging = sum(thread.is_alive() for thread in threads)
    gc.collect()
    for name, n in sorted(soak.counts.items()):
        print(f"{n:7d} {name}")
    print(f"{sum(soak.counts.values())} requests, {len(soak.known)} of them different and repeatable")
    print(f"memory: {before:.0f} MB at most in the warm-up, {after:.0f} after it, {resident_mb():.0f} closed")
    wrong = [*soak.errors[:10], *([f"{hanging} threads hang"] if hanging else [])]
    if after > before + GROWTH_MB:
        wrong.append(f"memory grew by {after - before:.0f} MB, allowed are {GROWTH_MB}")
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
