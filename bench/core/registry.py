"""Names to classes: decorators that register, discovery, and the nearest valid name on a miss.

Invariant: a name belongs to one class; a second class under it is an error, not a replacement.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from bench.core import elsewhere, shipped
from bench.core.blame import defined
from bench.core.definitions import OWN
from bench.core.errors import THEIRS, BenchError, UsageError, cause, located, named, suggest, traced
from bench.core.settings import cast
from bench.core.surfaces import SURFACES

KINDS = ("method", "task", "judge", "backend", "edit")
_tables: dict[str, dict[str, type[Any]]] = {kind: {} for kind in KINDS}
_combinations: dict[str, None] = {}
_discovered: set[str] = set()
_packages = {
    "method": ("methods",),
    "task": ("tasks",),
    "judge": ("bench.judges",),
    "backend": ("bench.backends",),
    "edit": ("bench.core.kinds", "bench.core.fields"),
}
"""Where the shipped classes of a kind lie: a package with a module each (backends: a folder each), or modules."""

CAPABILITIES = frozenset(
    {"prompt", "score", "mix", "gate", "delta", "embeds", "train", "site:attn", "site:mlp", "site:keys", "site:values"}
)
"""What a method may need of an engine, beside kinds of edits."""

VIEWS = frozenset({"texts", "pairs", "choices", "personas", "conditions"})
"""Training views a method may learn from (`Train.views`)."""
PRODUCTS = frozenset({"steering", "detector", "options"})
"""What a method's fits may hold."""

T = TypeVar("T")


def register(kind: str, name: str, **attributes: Any) -> Callable[[type[T]], type[T]]:
    """Put a class under `name`, with these attributes."""

    def add(cls: type[T]) -> type[T]:
        taken = _tables[kind].get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UsageError(_twice(kind, name, taken, cls))
        for key, value in attributes.items():
            setattr(cls, key, value)
        cls.name = name  # type: ignore[attr-defined]
        _tables[kind][name] = cls
        return cls

    return add


def _twice(kind: str, name: str, one: type[Any], two: type[Any]) -> str:
    """What to say of two classes under one name; of a shipped one the other gives way, whichever came first."""
    for own, other in ((one, two), (two, one)):
        if own.__module__.split(".")[0] in OWN:
            return f"{name!r} is a shipped {kind}: {defined(other)} needs another name"
    return f"{kind} {name!r} is there twice: {defined(one)} and {defined(two)} need names of their own"


def method(
    name: str,
    *,
    surface: str,
    paper: str = "",
    views: Iterable[str] = ("texts",),
    needs: Iterable[str] = (),
    provides: Iterable[str] = ("steering",),
    **invariants: bool,
) -> Callable[[type[T]], type[T]]:
    """Register a `Method`. `provides` is what its fits hold (`steering`, `detector`); `invariants` are
    its class flags (`antisymmetric`, `recovers`, ...). A new kind of edit is registered before what needs it."""
    views, provides = list(views), list(provides)
    _refuse_unknown(name, "surface", [surface], SURFACES)
    _refuse_unknown(name, "view", views, VIEWS)
    _refuse_unknown(name, "product", provides, PRODUCTS)
    known = {*CAPABILITIES, *table("edit")}
    if strange := sorted(set(needs := list(needs)) - known):
        raise UsageError(f"method {name!r}: no engine is known to {strange[0]!r}: {suggest(strange[0], known)}")

    def add(cls: type[T]) -> type[T]:
        _refuse_unknown(name, "flag", invariants, [flag for flag in dir(cls) if isinstance(getattr(cls, flag), bool)])
        sets = {"views": frozenset(views), "needs": frozenset(needs), "provides": frozenset(provides)}
        return register("method", name, surface=surface, paper=paper, **sets, **invariants)(cls)

    return add


def _refuse_unknown(method: str, what: str, given: Iterable[str], known: Iterable[str]) -> None:
    if strange := sorted(set(given).difference(known)):
        raise UsageError(f"method {method!r}: unknown {what} {strange[0]!r}: {suggest(strange[0], known)}")


def combine(*names: str) -> None:
    """Let `--methods all` include the combination `a+b` of registered methods; any other runs when it is named."""
    _combinations["+".join(names)] = None


def combinations() -> list[str]:
    """The combinations that `--methods all` includes."""
    discover("method")
    return list(_combinations)


def task(name: str) -> Callable[[type[T]], type[T]]:
    """Register a `Task`."""
    return register("task", name)


def judge(name: str) -> Callable[[type[T]], type[T]]:
    """Register a `Judge`; `NAME:ARGUMENT` on the command line passes the argument on."""
    return register("judge", name)


def backend(name: str) -> Callable[[type[T]], type[T]]:
    """Register a `Backend`."""
    return register("backend", name)


def table(kind: str) -> dict[str, type[Any]]:
    """All classes registered under `kind`, by name."""
    discover(kind)
    return dict(sorted(_tables[kind].items()))


def get(kind: str, name: str) -> type[Any]:
    known = table(kind)
    if name not in known:
        if kind == "method" and (why := elsewhere.reason(name)):
            raise UsageError(f"no method {name!r} here: {why}")
        raise UsageError(f"unknown {kind} {name!r}: {suggest(name, known)}")
    return known[name]


def build(kind: str, name: str, params: dict[str, Any], **extra: Any) -> Any:
    """An instance of the class `name` with the fields of `params`, checked and cast from text."""
    cls = get(kind, name)
    if not dataclasses.is_dataclass(cls):
        raise UsageError(f"{kind} {name!r} must be a dataclass: {cls.__name__} is not")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise UsageError(f"{kind} {name!r} does not implement {', '.join(missing)}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = {}
    for key, value in params.items():
        if key not in fields:
            raise UsageError(f"{kind} {name!r} has no field {key!r}: {suggest(key, fields)}")
        values[key] = cast(value, hints[key], f"{name}.{key}")
    if lacking := sorted(set(extra) - set(fields)):
        raise UsageError(f"{kind} {name!r} must have the field {lacking[0]!r}: {cls.__name__} has none")
    try:
        return cls(**values, **extra)
    except ValueError as error:  # a class may refuse values that its types allow
        raise UsageError(f"{kind} {name!r}: {error}") from error


def discover(kind: str) -> None:
    """Import the shipped classes of one kind, and third parties' through their entry points."""
    if kind in _discovered:
        return
    _discovered.add(kind)
    for package in _packages[kind]:
        _import(package, kind)
    for entry in importlib.metadata.entry_points(group=f"bench.{kind}s"):
        try:
            entry.load()
        except THEIRS as error:  # whatever an installed package's own code raises: the others are not its hostages
            package = entry.dist.name if entry.dist else entry.value
            told = f"package {package} is left out: its {kind} {entry.name} cannot be loaded"
            print(f"bench: {told}: {cause(error, _files(entry.module))}", file=sys.stderr)
            traced(error)


def _import(package: str, kind: str) -> None:
    """Import what the program ships in one place: each registers itself."""
    with nullcontext() if package.startswith("bench.") else shipped.own(package):
        importlib.import_module(package)
        for info in pkgutil.iter_modules([str(shipped.home(package))]):
            if kind != "backend" and not info.name.startswith("_"):  # parts of the others
                importlib.import_module(f"{package}.{info.name}")
            elif kind == "backend" and info.ispkg:
                importlib.import_module(f"{package}.{info.name}.backend")


def _files(module: str) -> list[str]:
    """The file of a module that may not have been imported."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return []
    return [spec.origin] if spec and spec.origin else []


PLUGIN = "bench_plugin_"
"""What the name of a plugin's module begins with."""


def plugin_files() -> list[str]:
    """The plugins that this process has loaded, in their order."""
    return [str(module.__file__) for name, module in sys.modules.items() if name.startswith(PLUGIN)]


def load_plugin(path: Path) -> ModuleType:
    """Import one file that registers classes (`--plugin my_method.py`)."""
    if not path.is_file():
        raise UsageError(f"no plugin file {path}")
    for kind in ("method", "task"):
        discover(kind)  # it may import from them, where a package of the user's has their name
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # two files of one name are two modules
    name = f"{PLUGIN}{path.stem}_{place}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugin {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except THEIRS as error:  # whatever a plugin's own code raises
        del sys.modules[name]
        place = located(error, [str(path.absolute())]) or path.name
        if isinstance(error, BenchError):
            raise UsageError(f"plugin {place}: {error}") from error
        raise UsageError(f"plugin {place} cannot be imported: {named(error)}") from error
    return module
