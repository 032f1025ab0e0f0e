"""The packages that come with the program, `methods` and `tasks`, found beside it whatever else goes by their names.

Invariant: a `tasks.py` or `methods` folder of the user's, on the path or imported already, neither hides what is
shipped nor is hidden from the user's own code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from bench.core.errors import UsageError


def home(package: str) -> Path:
    """The folder of a package of the program."""
    return Path(__file__).resolve().parents[2].joinpath(*package.split("."))


def state(packages: Iterable[str]) -> str:
    """Digest of which files packages of the program consist of, with sizes and times: another where any was written."""
    found = [sys.version]
    for package in packages:
        for folder, _, files in os.walk(home(package)):
            for path in sorted(os.path.join(folder, file) for file in files if not file.endswith(".pyc")):
                stat = os.stat(path)
                # The time of a change cannot be set as that of a text can.
                found.append(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:24]


@contextmanager
def own(package: str) -> Iterator[None]:
    """Have the name of a top-level package of the program mean that package inside the block. Where it is the user's
    outside, all modules of the package are loaded in the block, and stay importable by their full names."""
    theirs = sys.modules.get(package)
    if not _hidden(package, theirs):
        yield
        return
    names = [f"{package}.{info.name}" for info in pkgutil.iter_modules([str(home(package))])]
    if taken := sorted(set(names) & set(sys.modules)):
        raise UsageError(f"module {taken[0]} is imported already from elsewhere: the program has one of that name")
    spec = importlib.util.spec_from_file_location(
        package, home(package) / "__init__.py", submodule_search_locations=[str(home(package))]
    )
    assert spec
    assert spec.loader
    sys.modules[package] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        for name in names:
            importlib.import_module(name)
        yield
    finally:
        del sys.modules[package]
        if theirs is not None:
            sys.modules[package] = theirs


def _hidden(package: str, loaded: ModuleType | None) -> bool:
    """Whether a name is not the program's own package, loaded or about to be."""
    places = getattr(loaded, "__path__", None) if loaded is not None else []
    if loaded is None:
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(package)
            places = (spec.submodule_search_locations if spec else None) or []
    return home(package) not in [Path(place).resolve() for place in places or ()]
