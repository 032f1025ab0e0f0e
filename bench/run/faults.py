"""What goes wrong in a method's code, with the file and line of whoever wrote it.

Invariant: a method is third parties' code, its failure is its own, and is told in one line.
"""

from __future__ import annotations

from typing import Any

from bench.core.blame import defined, foreign
from bench.core.errors import cause
from bench.core.interfaces import Method


def definitions(made: Method) -> tuple[type[Any], ...]:
    """The classes that decide a method's fits, those of what it is made of among them."""
    return tuple(cls for part in made.family_tree for cls in part.definitions)


def files(made: Method) -> list[str]:
    """The files of a method's classes that are not this program's: a plugin's, which its errors should name."""
    return foreign(*definitions(made))


def fault(error: BaseException, made: Method) -> str:
    """What went wrong in a method's code, or with what it gave: then the place is where its `fit` begins."""
    own = [part for part in made.family_tree if foreign(*part.definitions)]
    return cause(error, files(made), defined(type(own[0]).fit) if own else "")
