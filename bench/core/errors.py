"""Errors whose message is one line for the user: what, where, and what to do; and the nearest valid name."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path


def suggest(name: str, known: Iterable[str]) -> str:
    """ ", did you mean 'x'?" or the list of valid names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


class BenchError(Exception):
    """A failure whose message is one line for the user: what, where, and what to do."""


THEIRS = (Exception, SystemExit)
"""What third parties' code may end with, and what it is called from goes on: `sys.exit` in a method ends that method.
An interrupt is the user's, and ends everything."""
DEBUG = "BENCH_DEBUG"


def traced(error: BaseException) -> None:
    """Print where an error came from, which is told in one line otherwise, on stderr: under `--debug` (`BENCH_DEBUG`)
    alone."""
    if os.environ.get(DEBUG, "").strip() not in ("", "0"):
        sys.stderr.write("".join(traceback.format_exception(error)))


def said(error: BaseException) -> str:
    """The first line of what an error says; the name of its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def named(error: BaseException) -> str:
    """An error's type and the first line of what it says; that line alone where it was written for a user."""
    kind, line = type(error).__name__, said(error)
    return line if isinstance(error, BenchError) or line == kind else f"{kind}: {line}"


def located(error: BaseException, files: Iterable[str]) -> str:
    """Where an error was raised, as `file.py:12`: the innermost line in one of `files`, or in one beside them; empty
    where none is."""
    homes = {Path(file).parent for file in files}
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent in homes]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else ""


def cause(error: BaseException, files: Iterable[str], otherwise: str = "") -> str:
    """`named`, and where in `files` the error was raised: here, or in the process that it was `relayed` from. An error
    about what their code gave, and not of its own, has the place `otherwise`."""
    place = located(error, files) or next(iter(getattr(error, "__notes__", ())), otherwise)
    return f"{named(error)}{f' ({place})' if place else ''}"


def relayed(error: BaseException, files: Iterable[str]) -> BenchError:
    """An error as it can be sent to another process, which has neither its traceback nor, it may be, its type."""
    kind = next((one for one in (StopRun, BenchError, UsageError) if type(error) is one), Relayed)
    sent = kind(named(error) if kind is Relayed else str(error))
    if place := located(error, files):
        sent.add_note(place)
    return sent


class Relayed(BenchError):
    """Another process's error; what it says begins with the name of its type."""


class UsageError(BenchError):
    """The command or its configuration is wrong (exit code 2)."""


class StopRun(BenchError):
    """The whole run ends here, where another error would end one method: no server, no key, no money."""
