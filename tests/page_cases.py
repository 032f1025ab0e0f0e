"""Results folders for the tests of the page, of any size and with any text, in the shape of real runs.

The benchmark of the page uses them too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import results
from bench.core.content import plain
from bench.core.protocol import Budget, Protocol, RunSpec
from bench.core.store import write_json
from bench.core.values import Sampling
from bench.results import second_judge, sidecars
from bench.results.record import VERSION

AXES = ("concept", "instruction", "fluency", "overall")
JUDGE = ("second", {"texts": 3})
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "tie_word_embeddings": True,
}

MADE = {"commit": "0123456789abcdef", "dirty": [], "hardware": {}, "versions": {}}

Words = Callable[[random.Random], str]


def plainly(rng: random.Random) -> str:
    """A text of 40 invented words, as long as a real answer."""
    return " ".join(rng.choice(WORDS) for _ in range(40))


WORDS = [
    "ship",
    "sea",
    "star",
    "bread",
    "castle",
    "music",
    "number",
    "angle",
    "table",
    "query",
    "thanks",
    "price",
    "coin",
    "error",
    "note",
    "river",
    "stone",
]


@dataclass(frozen=True)
class Recipe:
    """What to make: methods of descending merit, concepts, and answers to each."""

    methods: Sequence[tuple[str, str]]
    concepts: Sequence[str]
    tests: int = 3
    selects: int = 0
    """Questions on the select split whose answers are kept."""
    coefficients: Sequence[float] = (0.1, 0.4)
    words: Words = plainly
    judged: bool = True
    said: str = ""
    note: str = ""
    task: str = "axbench"
    model: str = "tiny-model"
    about: str = "a concept"
    prompt: Mapping[str, Any] = field(default_factory=dict)
    """What the methods of the surface `prompt` put around a question."""


def write(recipe: Recipe, root: Path) -> list[Path]:
    """The run files of a recipe; equal recipes give equal bytes."""
    made = []
    for merit, (name, surface) in enumerate(recipe.methods):
        path = results.place(_spec(recipe, name), root)
        path.parent.mkdir(parents=True, exist_ok=True)
        data, trials = _run(recipe, name, surface, 1.8 * 0.6**merit)
        write_json(path, data)
        if trials:
            path.with_name(results.TRIALS).write_text("".join(json.dumps(row) + "\n" for row in trials))
        if recipe.judged:
            run = results.read(path)
            write_json(second_judge.place(run, *JUDGE), _opinion(run, name))
        made.append(path)
    return made


def _spec(recipe: Recipe, name: str) -> RunSpec:
    rules = Protocol("standard", tuple(recipe.coefficients), 4, recipe.tests, Sampling(), Budget(72, 64, 3, 5))
    params = {"layer": 0.5}
    return RunSpec(name, recipe.task, recipe.model, "likelihood", rules, params, data=f"{len(recipe.concepts)}")


def _run(recipe: Recipe, name: str, surface: str, merit: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = random.Random(f"run {name}")
    spec = _spec(recipe, name)
    concepts: dict[str, Any] = {}
    samples, trials = [], []  # type: list[dict[str, Any]], list[dict[str, Any]]
    tried = [1.0] if surface == "prompt" else list(recipe.coefficients)
    for c, concept in enumerate(recipe.concepts):
        picked = {"candidate": 0, "coefficient": tried[c % len(tried)]}
        own = [_answer(recipe, rng, concept, "test", i, merit) for i in range(recipe.tests)]
        samples += own
        for coefficient in tried:
            trials += [
                {"candidate": 0, "coefficient": coefficient} | _answer(recipe, rng, concept, "select", i, merit)
                for i in range(recipe.selects)
            ]
        concepts[concept] = {
            "text": f"{recipe.about}: {concept}",
            "genre": "text",
            "picked": picked,
            "strength": picked["coefficient"],
            "note": {"layer": 2, "raw_norm": 3.25, **({"prompt": recipe.note} if recipe.note else {})},
            "layers": [[2]],
            "select": [{"candidate": 0, "coefficient": k} | _means(own) for k in tried],
            "test": _means(own),
            **({"prompts": [dict(recipe.prompt)]} if recipe.prompt and surface == "prompt" else {}),
        }
    counts = {"generations": len(samples) + len(trials), "tokens": 40 * len(samples), "missing": 0}
    data = {"version": VERSION, "id": spec.id, "group": spec.group, "spec": plain(spec), "code": "c",
            "surface": surface, "validated": True, "concepts": concepts, "samples": samples, "counts": counts,
            "axes": list(AXES), "scale": 2.0, "provenance": MADE}  # fmt: skip
    return data | {"metrics": results.metrics(data)}, trials


def _answer(recipe: Recipe, rng: random.Random, concept: str, split: str, i: int, merit: float) -> dict[str, Any]:
    said = {"said": {"concept": recipe.said}} if recipe.said else {}
    return {
        "id": f"{concept}/{split}/{i}",
        "concept": concept,
        "instruction": f"Question {i} of {concept}: {recipe.about}?",
        "text": recipe.words(rng),
        "tokens": 40,
        "touched": [50],
        "ratings": _ratings(rng, merit),
        "reasons": {},
        **said,
    }


def _ratings(rng: random.Random, merit: float) -> dict[str, float]:
    parts = [round(min(2.0, max(0.01, rng.gauss(merit, 0.25))), 4) for _ in AXES[:-1]]
    return dict(zip(AXES, [*parts, round(len(parts) / sum(1 / p for p in parts), 4)], strict=True))


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = {axis: round(sum(r["ratings"][axis] for r in rows) / len(rows), 6) for axis in AXES}
    return found | {"n": len(rows), "missing": 0}


def _opinion(run: results.Run, name: str) -> dict[str, Any]:
    """A second judge, who mostly sees what the first saw."""
    rng = random.Random(f"opinion {name}")
    judge, params = JUDGE
    rows = []
    for s in run.data["samples"]:
        seen = {a: round(min(2.0, max(0.0, v + rng.gauss(0, 0.1))), 4) for a, v in s["ratings"].items()}
        rows.append({"id": s["id"], "concept": s["concept"], "ratings": seen, "reasons": {}})
    of: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(row.pop("concept"), []).append(row)
    return {"version": VERSION, "run": run.data["id"], "id": second_judge.identity(judge, params),
            "judge": judge, "judge_params": params, "independent": True, "code": "c", "calibration": {},
            "concepts": {c: _means(own) for c, own in of.items()}, "samples": rows, "missing": 0}  # fmt: skip


def price(path: Path, prompt_tokens: float, time: float) -> None:
    """What a run costs, beside it: a prompt of so many tokens, and so much time per request of the bare model."""
    spread = {"median": time, "spread": 0.01, "n": 5}
    engine = {"backend": "hf", "dtype": "float32", "device": "cpu", "threads": 1, "accelerator": False,
              "provenance": MADE}  # fmt: skip
    sidecars.store(
        results.read(path),
        {
            "model": "tiny-model",
            "config": CONFIG,
            "exact": {"extra": {"prompt_tokens": prompt_tokens}, "draws": 1, "own_tokens": 20, "artefact_bytes": 256},
            "measured": {"time": spread, "seconds": spread},
            "fit": {"seconds": 1.0, "tokens": 100, "in_requests": 3.0},
            "judge": {"tokens_per_answer": 200, "cost": 0},
            "settings": {"batch": 4, "tokens": 16, "repeats": 5},
            "engine": engine,
        },
    )
