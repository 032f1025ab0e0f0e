"""Which code decides a result: digests of the modules that define a method, a task and a judge.

Invariant: comments and docstrings send nothing stale; code does.
"""

from __future__ import annotations

import ast
import importlib
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bench.api import Method
from bench.schema import digest

if TYPE_CHECKING:
    from bench.plan import Plan


def parts_of(made: Method) -> list[Method]:
    """A method with all that it is made of."""
    return [made, *(inner for part in getattr(made, "parts", ()) for inner in parts_of(part))]


def modules(made: Method) -> list[str]:
    """The modules that define a method: its own, and its parts' where it is made of others."""
    return list(dict.fromkeys(type(part).__module__ for part in parts_of(made)))


def code_of(plan: Plan, made: Method) -> str:
    """Digest of the code that decides a result: the method's modules, the task's and the judge's."""
    owners = [type(plan.task).__module__]
    owners += [type(plan.judge).__module__] if plan.task.rated else []
    return digest([code_digest(name) for name in (*modules(made), *owners)])


@lru_cache(maxsize=256)
def code_digest(name: str) -> str:
    """Digest of module `name` and of the first-party modules it imports, comments and docstrings left out."""
    seen: dict[str, str] = {}
    todo = [name]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        loaded = sys.modules.get(module) or importlib.import_module(module)
        source = Path(loaded.__file__ or "").read_text("utf-8")
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                node.body = [line for line in node.body if not _said(line)]
        seen[module] = digest(ast.dump(tree))
        if module.startswith("bench."):
            continue  # what a method imports from bench counts; what that imports in turn does not
        for node in ast.walk(tree):
            found = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            todo += [f for f in found if f.split(".")[0] in ("bench", "methods", "tasks") and "." in f]
    return digest(seen)


def _said(line: ast.stmt) -> bool:
    """Whether a statement only tells the reader something."""
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
