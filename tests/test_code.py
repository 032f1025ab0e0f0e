"""What the digest of a method's code covers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bench import code


def covered(module: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that one digest reads."""
    found: list[str] = []
    real = Path.read_text

    def noted(path: Path, *words: str, **options: str) -> str:
        found.append(f"{path.parent.name}.{path.stem}")
        return real(path, *words, **options)

    monkeypatch.setattr(Path, "read_text", noted)
    code.code_digest.cache_clear()
    code.code_digest(module)
    return set(found)


def test_a_trained_method_is_keyed_by_the_training_code(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("trainer", "objectives", "parametrisations", "texts", "vectors", "adapters", "spectral", "changes")
    found = covered("methods.lora", monkeypatch)
    assert {f"training.{part}" for part in parts} <= found
    assert {"methods.lora", "methods._trained", "bench.api", "bench.schema"} <= found


def test_what_bench_imports_in_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"bench.run", "bench.store", "bench.results", "training.trainer"} & covered(
        "methods.diffmean", monkeypatch
    )


def test_a_judge_is_keyed_by_its_own_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = covered("bench.judges.llm", monkeypatch)
    assert {"judges.llm", "judges._replies", "judges._rubrics"} <= found
    assert not {"backends.openai", "bench.api", "backends._prices"} & found
    assert "judges._corruptions" in covered("bench.judges.likelihood", monkeypatch)


def test_names_of_a_module_are_no_modules() -> None:
    (node,) = ast.parse("from bench.api import Context, Method").body
    assert code._imports(node) == ["bench.api"]
    (node,) = ast.parse("from bench import api, Add").body
    assert code._imports(node) == ["bench", "bench.api"]
