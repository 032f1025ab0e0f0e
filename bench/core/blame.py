"""Whose code a mistake is in: files and lines of third parties' classes, and errors that say so.

Invariant: an unexpected error of a plugin's own code is told in one line with its file and line; one of this program's
stays what it is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.core.definitions import OWN
from bench.core.errors import THEIRS, BenchError, cause, located
from bench.core.shipped import home


def foreign(*classes: type[Any]) -> list[str]:
    """The files of those of some classes that are not this program's, by which their errors are placed."""
    theirs = [cls for cls in classes if cls.__module__.split(".")[0] not in OWN]
    return [file for cls in theirs if (file := getattr(sys.modules.get(cls.__module__), "__file__", None))]


def theirs(error: BaseException, files: Iterable[str]) -> str:
    """Where in users' `files`, or beside them, an error was raised (`located`), this program's own lines left out: in a
    checkout they may stand beside a user's file."""
    found, frames = None, [frame for frame in _frames(error) if not _shipped(frame.tb_frame.f_code.co_filename)]
    for frame in reversed(frames):
        found = TracebackType(found, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return located(Exception().with_traceback(found), files)


def _frames(error: BaseException) -> Iterator[TracebackType]:
    frame = error.__traceback__
    while frame:
        yield frame
        frame = frame.tb_next


def _shipped(file: str) -> bool:
    return any(Path(file).is_relative_to(home(package)) for package in OWN)


def defined(thing: Any) -> str:
    """Where a class or function is written, as `file.py:12`; by name where it is in no file."""
    with suppress(OSError, TypeError):
        if file := inspect.getsourcefile(thing):
            return f"{Path(file).name}:{inspect.getsourcelines(thing)[1]}"
    return f"{thing.__module__}.{thing.__qualname__}"


@contextmanager
def blamed(what: str, cls: type[Any]) -> Iterator[None]:
    """Raise BenchError with `what`, file and line where third parties' class of that name ends in an unexpected error;
    this program's own mistakes keep their traceback."""
    files = foreign(cls)
    try:
        yield
    except (BenchError, OSError):
        raise
    except THEIRS as error:
        if not files:
            raise
        raise BenchError(f"{what}: {cause(error, files, defined(cls))}") from error
