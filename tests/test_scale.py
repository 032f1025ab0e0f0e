"""What a run of many rows may cost: named once, asked once, and in memory only where it is used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.core import content
from bench.core.values import Example
from bench.run.plan import Options, Plan, make
from bench.run.session import execute


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def plan(methods: str, **given: Any) -> Plan:
    return make(Options((methods,), backend="fake", judge="likelihood", **given))


@pytest.mark.parametrize("strength", ["norm", "max-act"])
def test_training_texts_are_digested_as_often_whatever_is_asked_of_them(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: str
) -> None:
    """Per concept and method, and not per question: five times the coefficients digest no text more."""
    seen: list[int] = []
    fields, counted = content._fields, Counter[str]()

    def counting(kind: type) -> tuple[str, ...] | None:
        counted[kind.__name__] += 1
        return fields(kind)

    monkeypatch.setattr(content, "_fields", counting)
    for coefficients in ((0.1, 0.2), tuple(i / 20 for i in range(1, 11))):
        counted.clear()
        made = plan("diffmean", limit=2, strength=strength, coefficients=coefficients)
        execute(made, tmp_path / str(len(coefficients)))
        seen.append(counted[Example.__name__])
    assert seen[1] <= seen[0]
