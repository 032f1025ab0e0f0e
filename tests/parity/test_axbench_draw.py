"""Which instructions a concept is steered on and with which coefficients, against AxBench's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import peers
import pytest

from bench.core.interfaces import Task
from bench.core.protocol import protocol
from bench.core.registry import build

GIVEN = peers.fixture("axbench_draw")["values"]
DRAWS: dict[str, list[int]] = GIVEN["draws"]


def rows(concept: int, category: str, kind: str) -> list[dict[str, Any]]:
    fixed: dict[str, Any] = {"output_concept": f"subject {concept}", "concept_genre": "text", "category": category}
    fixed |= {"concept_id": concept, "dataset_category": "instruction"}
    return [{"input": f"{kind} {concept} {category} {i}", "output": f"Text {i}, {category}."} | fixed for i in range(2)]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """AxBench's task on a folder in its layout, with 805 instructions beside it."""
    folder: Path = tmp_path_factory.mktemp("data")
    concepts = [int(concept) for concept in DRAWS]
    train = [row for concept in concepts for row in rows(concept, "positive", "train")] + rows(-1, "negative", "train")
    held = [row for concept in concepts for kind in ("positive", "negative") for row in rows(concept, kind, "held")]
    for name, table in (("generate/train_data", train), ("inference/latent_eval_data", held)):
        path = folder / f"{name}.parquet"
        path.parent.mkdir()
        pd.DataFrame(table).to_parquet(path)
    named = [json.dumps({"concept_id": k, "concept": f"the subject called {k}", "ref": "x"}) for k in concepts]
    (folder / "generate" / "metadata.jsonl").write_text("\n".join(named) + "\n", "utf-8")
    asked = [{"instruction": f"Question {i}?"} for i in range(GIVEN["count"])]
    (folder / "alpaca_eval.json").write_text(json.dumps(asked), "utf-8")
    rules = protocol("paper", compat="axbench")
    made: Task = build("task", "axbench", {"data": str(folder)}, protocol=rules)
    return made


@pytest.mark.parametrize("concept", DRAWS)
def test_a_concept_is_asked_axbench_s_ten_instructions_in_order(task: Task, concept: str) -> None:
    (meant,) = [one for one in task.concepts() if one.id == concept]
    asked = [[sample.instruction for sample in split(meant)] for split in (task.select, task.test)]
    drawn = [f"Question {i}?" for i in DRAWS[concept]]
    assert asked == [drawn[:5], drawn[5:]]


def test_the_coefficients_are_axbench_s_factors() -> None:
    assert list(protocol("paper", compat="axbench").coefficients) == GIVEN["factors"]
