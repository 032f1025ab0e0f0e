"""What every command prints through: lines and progress on stderr, tables on stdout.

Invariant: results go to stdout, everything else to stderr. Nothing that is printed steers a terminal but this module's
own styles: names, texts, reasons and paths are anybody's (`bench.core.escape.printable`), and no brackets are markup.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import click
from rich import console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from bench.core.errors import UsageError
from bench.core.escape import printable


class Console(console.Console):
    """A console that shows every text as it is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, **options)

    def render(self, *given: Any, **options: Any) -> Iterator[Segment]:
        for segment in super().render(*given, **options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


err = Console(stderr=True)


def out(width: int = 160) -> Console:
    """Where tables go; `width` columns where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else width)


def say(line: str) -> None:
    """One line on stderr."""
    err.print(" ".join(line.splitlines()), soft_wrap=True)


def echo(text: object = "", err: bool = False) -> None:
    """Text on stdout, or on stderr, for programs and readers alike."""
    click.echo(printable(str(text)), err=err)


def confirm(told: str, instead: str) -> None:
    """Ask before texts leave the machine; where nobody can be asked, UsageError with what to do `instead`."""
    if not sys.stdin.isatty():
        raise UsageError(f"{told}; {instead}")
    click.confirm(f"bench: {told}. Go on?", abort=True, err=True)


def money(judging: Mapping[str, Any], limit: float) -> str:
    """What a hosted model will take (`Judge.estimate`), as a line."""
    tokens = f"judge: about {judging['prompt_tokens']:,} tokens read and at most {judging['tokens']:,} written"
    if judging["dollars"] is None:
        return tokens + "; no price is known for its model (-p openai.price=IN,OUT)"
    over = f", over --max-cost ${limit:g}: asking may stop there" if limit and judging["dollars"] > limit else ""
    return f"{tokens}: about ${judging['dollars']:.2f} at most{over}"


EVERY = 4.0
"""Seconds between the lines of a stage where there is no terminal."""
REDRAWN = 0.5
"""Seconds between two looks at what is under way, on a terminal."""
AT_ONCE = 0.5
"""Seconds at a stage's beginning in which what is done had been kept: it says nothing of speed."""
UnderWay = Callable[[], tuple[float, str]]
"""How many steps the work under way comes to, beside those that are done, and what it is (`bench.run.pulse`)."""


@contextmanager
def progress(stage: str, total: int, doing: UnderWay = lambda: (0.0, "")) -> Iterator[Callable[[int], None]]:
    """One bar a stage on a terminal; elsewhere a line a stage, and one every `EVERY` seconds meanwhile, whether a step
    is done or not."""
    begun, done, kept, over = time.monotonic(), 0, 0, threading.Event()
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[doing]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar, _stderr() as lines:
        task = bar.add_task(stage, total=total, doing="")

        def advance(steps: int) -> None:
            nonlocal done, kept
            done += steps
            if time.monotonic() - begun < AT_ONCE:
                kept = done

        def tell() -> None:
            within, said = doing()
            if err.is_terminal:
                bar.update(task, completed=min(total, done + within), doing=said)
            else:
                lines.print(_line(stage, total, done, within, kept, said, time.monotonic() - begun), soft_wrap=True)

        def watch() -> None:
            with suppress(OSError, ValueError):  # nobody reads any more: whoever prints next is told
                while not over.wait(REDRAWN if err.is_terminal else EVERY):
                    tell()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield advance
        finally:
            over.set()
            watcher.join()
    err.print(f"{stage}: {done}/{total} in {time.monotonic() - begun:.0f} s")


def _line(stage: str, total: int, done: int, within: float, kept: int, said: str, spent: float) -> str:
    """How far a stage is, with the time that is left at its own speed so far; else the time that was spent."""
    made = done + within - kept
    time_left = f"about {spent / made * (total - done - within):.0f} s left" if made > 0 else f"{spent:.0f} s so far"
    return ", ".join(part for part in (f"{stage}: {done}/{total}", said, time_left) if part)


@contextmanager
def _stderr() -> Iterator[Console]:
    """Where lines go while a stage lasts: stderr as it was when the stage began, which an engine that starts may
    redirect for a minute."""
    try:
        number = os.dup(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # none of the system's, as in a notebook
        yield err
        return
    with open(number, "w", encoding=sys.stderr.encoding, errors="backslashreplace") as file:
        yield Console(file=file)
