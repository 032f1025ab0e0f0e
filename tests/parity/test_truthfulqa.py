"""TruthfulQA's MC1 and MC2 against lm-eval's, from the same log-probabilities."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from peers import fixture

from bench import Completion
from bench.core.protocol import protocol
from tasks.truthfulqa import TruthfulQA

QUESTIONS = fixture("truthfulqa")["values"]["questions"]


def test_mc1_and_mc2_are_lm_evals(tmp_path: Path) -> None:
    with (tmp_path / "TruthfulQA.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, ["Question", "Category"])
        rows.writeheader()
        rows.writerows({"Question": q["question"], "Category": q["category"]} for q in QUESTIONS)
    targets = [{"question": q["question"], "mc1_targets": q["mc1"], "mc2_targets": q["mc2"]} for q in QUESTIONS]
    (tmp_path / "mc_task.json").write_text(json.dumps(targets), "utf-8")
    task = TruthfulQA(protocol("standard"), data=str(tmp_path))
    samples = [sample for concept in task.concepts() for sample in task.test(concept)]
    known = {q["question"]: q for q in QUESTIONS}
    assert {sample.messages[-1][1] for sample in samples} == set(known)
    asked = [known[sample.messages[-1][1]] for sample in samples]
    outputs = [
        Completion("", 0, 0, options=tuple(q["logprobs"][option] for option in sample.options))
        for q, sample in zip(asked, samples, strict=True)
    ]
    found = task.score(samples, outputs, lambda items: [])
    for q, verdicts in zip(asked, found, strict=True):
        assert verdicts["mc1"].value == q["expected"]["mc1"]
        assert verdicts["mc2"].value == pytest.approx(q["expected"]["mc2"], abs=1e-8)
    assert {q["expected"]["mc1"] for q in QUESTIONS} == {0.0, 1.0}
