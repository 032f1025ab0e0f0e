"""Errors whose message is one line for the user: what, where, and what to do; and the nearest valid name."""

from __future__ import annotations

import difflib
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


def said(error: BaseException) -> str:
    """The first line of what an error says; the name of its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def named(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    kind, line = type(error).__name__, said(error)
    return line if isinstance(error, Relayed) or line == kind else f"{kind}: {line}"


def located(error: BaseException, files: Iterable[str]) -> str:
    """Where an error was raised, as `file.py:12`: the innermost line in one of `files`; empty where none is."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in set(files)]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else ""


def cause(error: BaseException, files: Iterable[str]) -> str:
    """`named`, and where in `files` the error was raised: here, or in the process that it was `relayed` from."""
    place = located(error, files) or next(iter(getattr(error, "__notes__", ())), "")
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
