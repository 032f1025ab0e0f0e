"""Whose code a mistake is in: files and lines of third parties' classes, and errors that say so.

Invariant: an unexpected error of a plugin's own code is told in one line with its file and line; one of this program's
stays what it is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.core.definitions import OWN
from bench.core.errors import THEIRS, BenchError, cause


def foreign(*classes: type[Any]) -> list[str]:
    """The files of those of some classes that are not this program's, by which their errors are placed."""
    theirs = [cls for cls in classes if cls.__module__.split(".")[0] not in OWN]
    return [file for cls in theirs if (file := getattr(sys.modules.get(cls.__module__), "__file__", None))]


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
