"""A title names what a table is of, and exactly the fields in which two tables differ; nothing is keyed by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.core.content import plain
from bench.results.runs import Run
from bench.results.tables import titles
from bench.run.plan import Options, make

USUAL = "axbench (mini) · fake · preset quick"


def run(spec: dict[str, Any] | None = None, asked: dict[str, Any] | None = None, **options: Any) -> Run:
    plan = make(Options(methods=("none",), backend="fake", **options))
    data = {"spec": {**plain(plan.specs[0]), **(spec or {})}, "asked": {**plan.asked, **(asked or {})}}
    return Run(Path(), data)


def titled(*runs: Run) -> list[str]:
    return list(titles({str(i): [run] for i, run in enumerate(runs)}).values())


def test_one_table_has_the_title_of_its_task() -> None:
    assert titled(run()) == [USUAL]
    assert titled(run(coefficients=(0.0, -0.3))) == [f"{USUAL}, coefficients 0, -0.3"]


@pytest.mark.parametrize(
    ("other", "ends"),
    [
        ({"judge": "rules"}, (" · judge likelihood", " · judge rules")),
        ({"limit": 2}, (" · concepts all", " · concepts 2")),
        ({"seed": 3}, (" · seed 0", " · seed 3")),
        (
            {"asked": {"model": "/a/b"}, "spec": {"weights": "ffff1234"}},
            (" · model SmolLM2-135M-Instruct", " · model /a/b"),
        ),
        ({"spec": {"data": "abcdef12"}}, (" · data {data}", " · data abcdef")),
        ({"spec": {"backend": "vllm"}}, (" · engine fake", " · engine vllm")),
    ],
)
def test_two_tables_show_what_differs_and_no_more(other: dict[str, Any], ends: tuple[str, str]) -> None:
    one, two = run(), run(**other)
    assert titled(one, two) == [USUAL + end.format(data=one.data["spec"]["data"][:6]) for end in ends]


def test_tables_of_other_tasks_and_presets_keep_their_titles() -> None:
    assert titled(run(), run(preset="standard")) == [USUAL, "axbench (mini) · fake · preset standard"]


def test_every_table_has_a_title_of_its_own() -> None:
    runs = [run(seed=s, limit=n, strength=u) for s in (0, 1) for n in (0, 2) for u in ("norm", "max-act")]
    assert len(set(titled(*runs))) == len(runs)
