"""Tokens per second with speculation and without, alternating in one run on one model.

    python bench/speculation.py --model smollm2 --threads 2
    python bench/speculation.py --model target.gguf --draft smaller.gguf

Prompts of the first kind ask for copies of what they have: a list to repeat, code to edit, a text to quote.
Those of the second ask for something new. Every pair of runs must give the same tokens. A ratio is the median
over rounds of two neighbouring runs, so that a machine which slows down for a while slows both; the time is
that from the first token to the last, which a cached prompt does not change.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import lanner

LIST = (
    "apples, pears, plums, cherries, bananas, grapes, lemons, oranges, peaches, melons, kiwis, figs, dates, "
    "limes, mangoes, apricots, raspberries, blueberries, strawberries, currants, walnuts, almonds"
)
CODE = '''def read_scores(path, sep):
    """Reads a table of names and scores."""
    scores = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            parts = line.rstrip("\\n").split(sep)
            if len(parts) != 2:
                raise ValueError(f"{path}: line {number} has {len(parts)} parts, wanted 2")
            name, score = parts
            scores[name] = float(score)
    return scores


def best(scores, count):
    """The names with the highest scores, highest first."""
    ranked = sorted(scores, key=scores.get, reverse=True)
    return ranked[:count]
'''
TEXT = (
    "The lighthouse was built in 1847 on the northern cliff of the island. Its keeper, Maria Jensen, wrote a "
    "line in the log book every evening for thirty-one years. In the winter of 1862 a storm tore the lantern "
    "from the tower, and she rowed to the mainland to fetch another. The light was automated in 1971, and "
    "the log books are now in the museum of the harbour town."
)
COPIES = {
    "repeat a list": f"Repeat this list exactly:\n{LIST}",
    "edit code": (
        f"Rename `sep` to `separator`. Give the whole code, unchanged otherwise.\n```python\n{CODE}```"
    ),
    "quote a text": f"Summarize this text with quotes of its sentences, word for word:\n\n{TEXT}",
}
NEW = {
    "tell a story": "Tell me a story about a fox who wants to learn how to swim.",
    "explain": "Explain why the sky is blue and why sunsets are red.",
    "advise": "How do I prepare for a job interview? Give detailed advice.",
}


def main() -> None:
    """Measures, then prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--draft", help="a model of the same vocabulary; default: speculate='lookup'")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = measure(options)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{options.model}, load average {load}, {lanner.isa()}")
    names = ("without", "with", "ratio", "least", "drafted", "accepted", "a step")
    print("tokens/s".ljust(16) + "".join(f"{name:>9}" for name in names))
    for row in rows:
        numbers = f"{row['without']:>9.1f}{row['with']:>9.1f}{row['ratio']:>9.2f}{row['least']:>9.2f}"
        drafts = f"{row['drafted']:>9}{row['accepted']:>9}{row['accepted_per_step']:>9.2f}"
        print(f"{row['prompt']:<16}{numbers}{drafts}")
    if options.json:
        measured = {"model": options.model, "load": os.getloadavg(), "rows": rows}
        options.json.write_text(json.dumps(measured, indent=1))


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    """A row for each prompt."""
    loading = {"threads": options.threads} if options.threads else {}
    rows = []
    with lanner.load(options.model, **loading) as model:
        draft = lanner.load(options.draft, **loading) if options.draft else None
        for kind, prompts in (("copies", COPIES), ("new", NEW)):
            for name, prompt in prompts.items():
                rows.append({"kind": kind, "prompt": name} | one(model, prompt, draft or "lookup", options))
        if draft is not None:
            draft.close()
    return rows


def one(
    model: lanner.Model, prompt: str, speculate: object, options: argparse.Namespace
) -> dict[str, object]:
    """Rounds of both, in turns that change their order."""
    chosen = {"max_tokens": options.tokens, "temperature": options.temperature, "seed": 1}
    messages = [{"role": "user", "content": prompt}]
    rates: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(options.runs + 1):
        results = {}
        for is_on in (False, True) if turn % 2 else (True, False):
            results[is_on] = model.chat(messages, speculate=speculate if is_on else None, **chosen)
        if results[True].tokens != results[False].tokens:
            raise AssertionError(f"{prompt!r:.60}: other tokens with speculation than without")
        for is_on, result in results.items():
            if turn:  # the first one warms up
                rates[is_on].append(result.timings.decode_tokens_per_s)
        timings = results[True].timings
    ratios = [a / b for a, b in zip(rates[True], rates[False], strict=True)]
    return {
        "without": statistics.median(rates[False]),
        "with": statistics.median(rates[True]),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "drafted": timings.drafted_tokens,
        "accepted": timings.accepted_tokens,
        "accepted_per_step": timings.accepted_per_draft_step,
    }


if __name__ == "__main__":
    main()
