"""A copy of the program that a test may change, asked in a process of its own."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEYS = """
import json
from bench.core.definitions import code_digest
from bench.core.registry import table
print(json.dumps({f"{k} {n}": code_digest(c) for k in ("method", "task", "judge") for n, c in table(k).items()}))
"""
ENGINE = """
import json
from bench.run.identity import RULES
from bench.core.definitions import code_digest
from bench.core.registry import get
print(json.dumps({"engine": get("backend", "hf").code(), "rules": code_digest(*RULES)}))
"""


class Tree:
    """`bench`, `methods` and `tasks` below a folder of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("bench", "methods", "tasks"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))

    def edit(self, file: str, old: str, new: str) -> None:
        """Put `new` for `old`, which stands there once."""
        path = self.root / file
        text = path.read_text("utf-8")
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), "utf-8")

    def append(self, file: str, text: str) -> None:
        with (self.root / file).open("a", encoding="utf-8") as stream:
            stream.write(text)

    def move(self, *modules: str, to: str) -> None:
        """Move modules into the new package `to`, and change every import of them."""
        package = self.root.joinpath(*to.split("."))
        package.mkdir()
        (package / "__init__.py").write_text("")
        for module in modules:
            path = self.root.joinpath(*module.split(".")).with_suffix(".py")
            path.rename(package / path.name)
        for path in [*self.root.rglob("*.py"), *self.root.rglob("*.pyi")]:
            lines = path.read_text("utf-8").split("\n")
            for node in reversed([n for n in ast.walk(ast.parse("\n".join(lines))) if isinstance(n, ast.ImportFrom)]):
                home = node.module or ""
                if node.level:  # a stub's imports are relative
                    home = ".".join([*path.parent.relative_to(self.root).parts, *([home] if home else [])])
                if home in modules:
                    home = f"{to}.{home.rpartition('.')[2]}"
                homes = [to if f"{home}.{alias.name}" in modules else home for alias in node.names]
                if node.level:
                    package = ".".join(path.parent.relative_to(self.root).parts)
                    homes = [f".{one.removeprefix(package).removeprefix('.')}" for one in homes]
                new = [f"from {one} import {ast.unparse(alias)}" for one, alias in zip(homes, node.names, strict=True)]
                indent = lines[node.lineno - 1][: node.col_offset]
                lines[node.lineno - 1 : node.end_lineno] = [indent + "; ".join(new)]
            path.write_text("\n".join(lines), "utf-8")

    def ask(self, script: str, *words: str) -> Any:
        """What a script prints as JSON, run on this copy."""
        return asked(self.root, script, *words)


def asked(root: Path, script: str, *words: str) -> Any:
    """What a script prints as JSON, run on the program below `root`."""
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
