"""What every command prints through: lines and progress on stderr, tables on stdout.

Invariant: results go to stdout, everything else to stderr. What a model wrote is printed without the characters that
steer a terminal.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

err = Console(stderr=True, highlight=False, emoji=False)


def out(width: int = 160) -> Console:
    """Where tables go; `width` columns where it is no terminal."""
    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else width)


def say(line: str) -> None:
    """One line on stderr as it is: an error's reason or a path may have brackets, which are no markup."""
    err.print(line, markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """`text` without control characters, line ends and tabs apart."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


@contextmanager
def progress(stage: str, total: int) -> Iterator[Callable[[int], None]]:
    """One bar a stage on a terminal, one line a stage elsewhere."""
    begun, done = time.monotonic(), 0
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(stage, total=total)

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            bar.update(task, advance=steps)

        yield advance
    err.print(f"{stage}: {done}/{total} in {time.monotonic() - begun:.0f} s")
