"""The bare default model on TruthfulQA's multiple choice, by this project and by lm-eval, question by question.

Both score the same local questions in fp32: lm-eval with its own `truthfulqa_mc1` and `truthfulqa_mc2` tasks and its
own Hugging Face model, this project with `truthfulqa` in format `lm-eval`. Writes a row per question to
`truthfulqa.csv`, and both means with the largest difference to `truthfulqa.json`.
`python benchmarks/truthfulqa.py FOLDER`, FOLDER with TruthfulQA.csv and mc_task.json. An hour or two on two cores; with
`--keep DIR` the same command goes on from the answers that lm-eval keeps there.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.backends.hf.backend import HFBackend
from bench.backends.models import DEFAULT, resolve
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.steering import Prompt
from bench.core.store import write_json
from bench.core.values import Completion, Request, Sample
from bench.results import provenance
from bench.run.trials import plain_text

AXES = ("mc1", "mc2")


def ours(lm: HFBackend, task: Any, samples: Sequence[Sample]) -> dict[str, list[float]]:
    """question -> its MC1 and MC2 here."""
    requests = [Request(plain_text(s, Prompt()), target=" " + option) for s in samples for option in s.options]
    found = dict(lm.logprobs(requests))
    totals = iter(found[i].total for i in range(len(requests)))
    outputs = [Completion("", 0, 0, options=tuple(next(totals) for _ in s.options)) for s in samples]
    rows = task.score(samples, outputs, lambda items: [])
    return {s.instruction: [float(row[axis].value) for axis in AXES] for s, row in zip(samples, rows, strict=True)}


def theirs(lm: HFBackend, task: Any, samples: Sequence[Sample], folder: Path) -> dict[str, list[float]]:
    """question -> its MC1 and MC2 by lm-eval, whose answers are kept in `folder`.

    MC2 goes first: its options hold nearly all of MC1's, which then come from lm-eval's own cache.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    known = {q.text: q for q in task.questions}
    rows = []
    for sample in samples:
        question = known[sample.instruction]
        targets = {
            f"{axis}_targets": {"choices": list(options), "labels": list(options.values())}
            for axis, options in (("mc1", question.mc1), ("mc2", question.mc2))
        }
        rows.append({"question": question.text} | targets)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    own = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa"
    (folder / "utils.py").write_text((own / "utils.py").read_text("utf-8"), encoding="utf-8")
    local = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    validation: {folder / 'rows.jsonl'}\n"
    for axis in AXES:
        text = (own / f"truthfulqa_{axis}.yaml").read_text("utf-8").replace("truthfulqa_mc", "local_mc")
        text = text.replace("dataset_path: truthfulqa/truthful_qa\ndataset_name: multiple_choice\n", local)
        (folder / f"local_{axis}.yaml").write_text(text, encoding="utf-8")
    model = HFLM(pretrained=str(lm.source.path), dtype="float32", batch_size=16, device=str(lm.model.device))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    logged = {}
    for axis in reversed(AXES):
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[f"local_{axis}"],
            task_manager=manager,
            use_cache=str(folder / "answers"),
            log_samples=True,
            bootstrap_iters=0,
        )
        logged[axis] = {row["doc"]["question"]: row["acc"] for row in found["samples"][f"local_{axis}"]}
    return {s.instruction: [float(logged[axis][s.instruction]) for axis in AXES] for s in samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, default=0, help="questions of each fold; 0: all")
    parser.add_argument("--keep", type=Path, help="folder for lm-eval's answers, to go on from")
    asked = parser.parse_args()
    task = build("task", "truthfulqa", {"data": str(asked.data), "format": "lm-eval"}, protocol=protocol("standard"))
    samples = [s for concept in task.concepts() for s in task.test(concept)[: asked.limit or None]]
    lm = HFBackend(resolve(DEFAULT), "float32")
    one = ours(lm, task, samples)
    with tempfile.TemporaryDirectory() as folder:
        kept = asked.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        two = theirs(lm, task, samples, kept)
    pairs = np.array([[one[q], two[q]] for q in one])  # [questions, side, axis]
    place = Path(__file__)
    with place.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", *(f"{axis}_{side}" for axis in AXES for side in ("bench", "lm_eval"))])
        for question, row in zip(one, pairs, strict=True):
            writer.writerow([question, *(f"{row[side, axis]:.6f}" for axis in (0, 1) for side in (0, 1))])
    found = {
        "questions": len(pairs),
        "dtype": "float32",
        "means": {
            side: {axis: round(float(pairs[:, i, k].mean()), 6) for k, axis in enumerate(AXES)}
            for i, side in enumerate(("bench", "lm_eval"))
        },
        "largest_difference": {
            axis: float(f"{np.abs(pairs[:, 0, k] - pairs[:, 1, k]).max():.3g}") for k, axis in enumerate(AXES)
        },
        "provenance": provenance.provenance(),
    }
    write_json(place.with_suffix(".json"), found)
    print({key: found[key] for key in ("questions", "means", "largest_difference")})


if __name__ == "__main__":
    main()
