"""What a key covers: definitions, and every first-party definition that they name, in turn.

Invariant: where a definition lies, what stands beside it, its docstrings, comments and imports are no part of its
digest; all else that it says is, and so is all that it names.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import json
import linecache
import symtable
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.core.content import digest
from bench.core.errors import UsageError
from bench.core.paths import cache_root
from bench.core.shipped import home, state

OWN = ("bench", "methods", "tasks")
"""Packages whose definitions can decide a number, beside the one that a class comes from and, where that is a file of
the user's, all that lies in its folder; of others versions count."""
TEXTS = frozenset({".py", ".pyi"})
INSTALLED = frozenset({"site-packages", "dist-packages"})
CARRIERS = frozenset(
    {
        *("method", "task", "judge", "backend", "forms", "objectives", "registered", "refusal", "change_of"),
        *("stored", "suggest", "Artefacts", "Rows", "Backend", "cache_root", "code_digest", "resolve"),
        *("RequestPool", "BatchBackend", "SpendingLimit", "Usage", "price_of"),
    }
)
"""Definitions of bench at which a digest stops: they register, fetch, store, send or pay, and decide no number. What an
engine does to one has a digest of its own (`Backend.code`), and a model's weights are named by theirs."""


def minor(package: str) -> str:
    """The minor version of an installed distribution, with its name; the first of `a|b` that is there."""
    for name in package.split("|"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {'.'.join(importlib.metadata.version(name).split('.')[:2])}"
    return ""


Place = tuple[str, str]
"""(module, top-level name)"""


Reference = tuple[Place, tuple[str, ...]]
"""What a name is bound to, and the attributes asked of it."""


@dataclass
class Source:
    """One module's text by top-level name: the statements that define it, or where it is imported from."""

    package: str = ""
    """Where its relative imports begin."""
    defines: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Place] = field(default_factory=dict)
    """The name there is empty where a module itself is imported."""
    stars: list[str] = field(default_factory=list)
    """Modules of which every name is imported."""
    read: dict[str, tuple[str, list[Reference]]] = field(default_factory=dict)
    """What `_read` found in a definition."""


def code_digest(*definitions: Any) -> str:
    """Digest of classes and functions with all that they name. Raises UsageError where the text of one is not there."""
    return _digest(definitions)


@lru_cache(maxsize=512)
def _digest(definitions: tuple[Any, ...]) -> str:
    modules = {one.__module__ for one in definitions}
    if any(module.split(".")[0] not in OWN for module in modules):
        return digest(sorted(map(str, closure(definitions).values())))
    place, known = _known()
    key = " ".join(sorted(f"{one.__module__}.{one.__qualname__}" for one in definitions))
    if key not in known:
        known[key] = digest(sorted(map(str, closure(definitions).values())))
        with suppress(OSError):  # it can be made again
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("a", encoding="utf-8") as file:
                file.write(json.dumps({key: known[key]}) + "\n")
    return known[key]


@lru_cache(maxsize=1)
def _known() -> tuple[Path, dict[str, str]]:
    """Digests that an earlier command took of the program as it is now, and the file that keeps them: taking all takes
    seconds."""
    place = cache_root() / "checksums" / f"code-{state(OWN)}.jsonl"
    known: dict[str, str] = {}
    with suppress(OSError):
        for line in place.read_text("utf-8").splitlines():
            with suppress(ValueError):  # a line that was not written to its end
                known |= json.loads(line)
    return place, known


def closure(definitions: Iterable[Any]) -> dict[Place, str]:
    """(module, name) -> its name and syntax, of every definition that can be reached from `definitions`."""
    found: dict[Place, str] = {}
    todo = [(one.__module__, one.__qualname__.split(".")[0]) for one in definitions]
    own = Own.around([module for module, _ in todo])
    for module, name in todo:
        if name not in own.source(module).defines:
            raise UsageError(f"the text of {module}.{name} cannot be read: define it in a file")
    while todo:
        module, name = place = todo.pop()
        if place in found:
            continue
        text = own.source(module)
        if name not in text.read:
            text.read[name] = _read(module, text, text.defines[name])
        syntax, references = text.read[name]
        found[place] = f"{name}: {syntax}"
        targets = [target for (home, bound), chain in references for target in _resolved(home, bound, chain, own)]
        todo += [target for target in targets if not _carries(target)]
    return found


def borrowed(*classes: type[Any]) -> list[dict[str, str]]:
    """`name` and `digest` of the files of third parties that a key of these classes covers, their own first."""
    theirs = [cls.__module__ for cls in classes if cls.__module__.split(".")[0] not in OWN]
    if not theirs:
        return []
    reached = sorted({module for module, _ in closure(classes) if module.split(".")[0] not in OWN})
    files = dict.fromkeys(file for module in (*theirs, *reached) if (file := _file(module)))
    return [{"name": file.name, "digest": digest(file.read_text("utf-8"))} for file in files]


@dataclass(frozen=True)
class Own:
    """Whose definitions a key follows: packages by name, and files of the user's by folder."""

    packages: frozenset[str]
    folders: tuple[Path, ...]
    sources: dict[str, Source] = field(default_factory=dict)
    """Those that were read already: a file that changes meanwhile is read by whoever asks next."""

    def source(self, module: str) -> Source:
        if module not in self.sources:
            self.sources[module] = source(module)
        return self.sources[module]

    @classmethod
    def around(cls, modules: Iterable[str]) -> Own:
        """The program's own, and what lies around these modules: the package of each, the folder of a plugin, and the
        working folder of a notebook."""
        tops = {module.split(".")[0] for module in modules}
        files = [(_file(top) or Path.cwd() / "notebook").resolve() for top in tops - set(OWN)]
        folders = {path.parent for path in files if path.stem != "__init__" and not INSTALLED & set(path.parts)}
        return cls(frozenset({*OWN, *tops}), tuple(sorted(folders)))

    def __contains__(self, module: str) -> bool:
        top = module.split(".")[0]
        if top in self.packages:
            return True
        if not self.folders or top in sys.stdlib_module_names:
            return False
        file = _file(module)
        places = [path.resolve() for path in ([file] if file else _bases(module))]
        inside = [path.relative_to(one) for path in places for one in self.folders if path.is_relative_to(one)]
        return any(not INSTALLED & set(below.parts) for below in inside)


def _carries(place: Place) -> bool:
    return place[1] in CARRIERS and place[0].split(".")[0] == "bench"


def source(module: str) -> Source:
    """The definitions and imports of a module; none where its text cannot be read."""
    if path := _file(module):
        return _parsed(module, str(path), path.stat().st_mtime_ns)
    found = Source()
    for name in _cells(module):
        cell = _collected(ast.parse("".join(linecache.getlines(name))), module)
        found.defines |= cell.defines
        found.imports |= cell.imports
    return found


@lru_cache(maxsize=1024)
def _parsed(module: str, path: str, _changed: int) -> Source:
    inside = module if Path(path).stem == "__init__" else module.rpartition(".")[0]
    return _collected(ast.parse(Path(path).read_text("utf-8")), inside)


def _file(module: str) -> Path | None:
    """The file of a module, found without importing it; a package's stub before its `__init__`, which may be lazy."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded and not loaded.endswith("__init__.py"):
        return Path(loaded) if Path(loaded).is_file() and Path(loaded).suffix in TEXTS else None
    return _found(module)


@lru_cache(maxsize=4096)
def _found(module: str) -> Path | None:
    bases = _bases(module)
    places = [base / f"__init__{suffix}" for base in bases for suffix in (".pyi", ".py")]
    places += [base.with_name(f"{base.name}.py") for base in bases]
    return next((path for path in places if path.is_file()), None)


@lru_cache(maxsize=4096)
def _bases(module: str) -> tuple[Path, ...]:
    """Where a module would be as a folder, in each place that its top-level package lies in; nothing is imported."""
    top, *rest = module.split(".")
    if top in OWN:
        return (home(module),)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # __main__ has no spec
        return ()
    if spec is None:
        return ()
    homes = spec.submodule_search_locations or ([spec.origin.removesuffix(".py")] if spec.origin and not rest else [])
    return tuple(Path(home).joinpath(*rest) for home in homes)


def _cells(module: str) -> list[str]:
    """Where the functions of a module without a file (a notebook) were written, as `linecache` knows them."""
    members = list(vars(sys.modules[module]).values()) if module in sys.modules else []
    inner = [part for one in members if inspect.isclass(one) for part in vars(one).values()]
    codes = [one.__code__ for one in [*members, *inner] if inspect.isfunction(one) and one.__module__ == module]
    return list(dict.fromkeys(code.co_filename for code in codes))


def _collected(tree: ast.Module, package: str) -> Source:
    found = Source(package)
    for statement in _top(tree.body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imported = _imported(statement, package)
            found.stars += [home for home, name in [imported.pop("*", ("", ""))] if name]
            found.imports |= imported
        for name in _bound(statement, found):
            found.defines.setdefault(name, []).append(statement)
    return found


def _top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under `if` and `try` one by one."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try):
            blocks = [statement.body, statement.orelse]
            if isinstance(statement, ast.Try):
                blocks += [*(handler.body for handler in statement.handlers), statement.finalbody]
            for block in blocks:
                yield from _top(block)
        else:
            yield statement


def _bound(statement: ast.stmt, known: Source) -> list[str]:
    """The names that a statement defines; what is neither a definition nor an import adds to those it mentions."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom) or _said(statement):
        return []
    mentioned = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
    stored = [node.id for node in mentioned if isinstance(node.ctx, ast.Store)]
    changed = [node.id for node in mentioned if node.id in known.defines]
    return list(dict.fromkeys(stored or changed))


def _imported(statement: ast.AST, package: str) -> dict[str, Place]:
    """name -> what an import binds to it."""
    if isinstance(statement, ast.Import):
        bound = {
            a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in statement.names
        }
        return {name: (module, "") for name, module in bound.items()}
    if not isinstance(statement, ast.ImportFrom):
        return {}
    above = package.split(".")[: 1 - statement.level or None] if statement.level else []
    home = ".".join([*above, *([statement.module] if statement.module else [])])
    return {alias.asname or alias.name: (home, alias.name) for alias in statement.names}


def _said(statement: ast.stmt) -> bool:
    """Whether a statement only tells the reader something."""
    said = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return said and isinstance(statement.value.value, str)  # type: ignore[attr-defined]


def _syntax(node: Any) -> Any:
    """A syntax tree as JSON types, alike in every version of Python: empty fields, docstrings and imports left out."""
    if isinstance(node, list):
        kept = [part for part in node if not (isinstance(part, ast.Import | ast.ImportFrom) or _said(part))]
        return [_syntax(part) for part in kept]
    if not isinstance(node, ast.AST):
        return repr(node)
    skipped = ("ctx", "kind", "type_comment")
    fields = {name: value for name, value in ast.iter_fields(node) if name not in skipped and value not in (None, [])}
    return [type(node).__name__, *([name, _syntax(value)] for name, value in fields.items())]


def _read(module: str, text: Source, statements: list[ast.stmt]) -> tuple[str, list[Reference]]:
    """The syntax of a definition of `module`, and what it refers to outside itself."""
    references: dict[Reference, None] = {}
    for statement in statements:
        inner = {k: v for node in ast.walk(statement) for k, v in _imported(node, text.package).items()}
        free = _free(statement)
        seen: set[int] = set()
        for node in ast.walk(statement):  # outer attributes come before what they are attributes of
            chain: list[str] = []
            while isinstance(node, ast.Attribute) and id(node) not in seen:
                seen.add(id(node))
                chain.insert(0, node.attr)
                node = node.value
            if not isinstance(node, ast.Name) or id(node) in seen:
                continue
            seen.add(id(node))
            place = inner.get(node.id)
            if place is None and node.id in free:
                place = (module, node.id) if node.id in text.defines else text.imports.get(node.id)
            unbound = place is None and node.id in free
            places = [(home, node.id) for home in text.stars] if unbound else [place] if place else []
            references |= dict.fromkeys((one, tuple(chain)) for one in places)
    return str([_syntax(statement) for statement in statements]), list(references)


def _free(statement: ast.stmt) -> set[str]:
    """Names of a statement that are looked up in its module; annotations name too."""
    text = ast.unparse(statement)
    todo = [symtable.symtable(text, "<definition>", "exec")]
    found: set[str] = set()
    while todo:
        table = todo.pop()
        todo += table.get_children()
        module = table.get_type() == "module"
        found |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (module or s.is_global())}
    return found


def _resolved(module: str, name: str, chain: Sequence[str], own: Own) -> list[Place]:
    """Where `module.name.chain…` is defined: one place, or a module's every one where the module itself is meant."""
    if module not in own:
        return []
    if name:
        text = own.source(module)
        if name in text.defines:
            return [(module, name)]
        if name in text.imports:
            return _resolved(*text.imports[name], chain, own)
        inner = f"{module}.{name}"
        return _resolved(inner, "", chain, own) if _file(inner) else []
    if chain:
        return _resolved(module, chain[0], chain[1:], own)
    return [(module, each) for each in own.source(module).defines]
