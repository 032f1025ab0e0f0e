"""Which code decides a result: digests of the modules that define a method, a task and a judge.

Invariant: comments and docstrings send nothing stale; code does.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bench.api import Method
from bench.schema import digest

if TYPE_CHECKING:
    from bench.plan import Plan

OWN = ("bench", "methods", "tasks")
"""The packages whose code can decide a result; of others the versions are recorded."""


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
        found = {name for node in ast.walk(tree) for name in _imports(node)}
        if module.startswith("bench."):  # what a method imports from bench counts; of what that imports, its helpers
            found = {name for name in found if name.startswith(f"{module.rpartition('.')[0]}._")}
        todo += [name for name in sorted(found) if name.split(".")[0] in OWN and "." in name]
    return digest(seen)


def _imports(node: ast.AST) -> list[str]:
    """The modules an import names: `from a.b import c` is a.b, and a.b.c where that is a module itself."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or not node.module:
        return []
    inner = [f"{node.module}.{alias.name}" for alias in node.names] if node.module.split(".")[0] in OWN else []
    return [node.module, *(name for name in inner if _is_module(name))]


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what it would lie in is no package
        return False


def _said(line: ast.stmt) -> bool:
    """Whether a statement only tells the reader something."""
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
