"""What a repository of the Hugging Face hub says of a run's steerings: a model card, and its evaluation results."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from bench.core.escape import cell, head, row
from bench.core.ranges import PROJECT
from bench.interchange.places import SCHEME
from bench.report.formats.told import OWN, Told
from bench.results.runs import Run

RESULTS = f".eval_results/{PROJECT}.yaml"
PLACE = f"{SCHEME}OWNER/NAME"


def hub_files(run: Run, steerings: Mapping[str, str], place: str = PLACE) -> dict[str, bytes]:
    """Path in the repository -> content: `README.md` and `.eval_results/…`.

    `steerings` is concept -> the file beside them; `place` where all will lie, as `imported.path` takes it.
    """
    told = Told(run)
    return {"README.md": _card(told, steerings, place).encode(), RESULTS: _results(told).encode()}


def _results(told: Told) -> str:
    """The hub's list of results, of every axis: of the steered model, so that the bare model's repository is no place
    for them."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    spec = told.spec
    entries = [
        EvalResultEntry(
            dataset_id=_data_set(told),
            task_id=f"{spec['task']}_{score.axis}",
            value=score.mean,
            date=told.when.isoformat().replace("+00:00", "Z"),
            notes=", ".join(
                f"{name} {value}"
                for name, value in {
                    "method": spec["method"],
                    "judge": spec["judge"],
                    "0 to": f"{told.scale:g}",
                    "95 % interval": score.interval,
                    "run": told.data["id"],
                }.items()
                if value
            ),
        )
        for score in told.scores
    ]
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True))


def _data_set(told: Told) -> str:
    return told.data_set or f"{OWN}/{told.spec['task']}"


def _card(told: Told, steerings: Mapping[str, str], place: str) -> str:
    spec = told.spec
    title = f"{spec['method']} for {spec['model']} on {spec['task']}"
    scores = [
        *head("axis", "score", "95 % interval"),
        *(row([s.axis, f"{s.mean:.2f}", s.interval]) for s in told.scores),
    ]
    judge = f"judge {spec['judge']}" if spec["judge"] else "no judge"
    lines = [
        f"---\n{_about(told, title)}\n---",
        f"# {cell(title)}",
        f"Made and measured by {PROJECT} {told.version}: method `{spec['method']}`, task `{spec['task']}`, preset "
        f"`{spec['protocol']['preset']}`, {judge}, {len(told.data['concepts'])} concepts, "
        f"{len(told.samples)} test samples. Scores go from 0 to {told.scale:g}; intervals are {told.resampled}.",
        "\n".join(scores),
        "## Concepts",
        "\n".join(_concepts(told, steerings)),
        "## Use",
        *(_use(told, place) if steerings else ["There are no steering files here, only what was measured."]),
        f"Run `{told.data['id']}`, weights `{spec['weights']}`, data `{spec['data']}`, code `{told.data['code']}`.",
    ]
    return "\n\n".join(lines) + "\n"


def _about(told: Told, title: str) -> str:
    """The card's head, which the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    spec, weights = told.spec, told.run.surface == "weights"
    adapter: dict[str, Any] = {"base_model_relation": "adapter"} if weights and told.on_hub else {}
    card = ModelCardData(
        base_model=told.model if told.on_hub else None,
        library_name=PROJECT,
        tags=list(dict.fromkeys(["steering", told.run.surface, spec["method"], spec["task"]])),
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="text-generation" if told.run.kind == "steering" else "text-classification",
                dataset_type=_data_set(told),
                dataset_name=spec["task"],
                metric_type=score.axis,
                metric_value=score.mean,
                metric_name=f"{score.axis} (95 % interval {score.interval})" if score.interval else score.axis,
            )
            for score in told.scores
        ],
        **adapter,
    )
    return str(card.to_yaml())


def _concepts(told: Told, steerings: Mapping[str, str]) -> list[str]:
    lines = head("concept", "what it is", "coefficient", "overall", "file")
    for name, found in told.data["concepts"].items():
        overall = found["test"]["overall"]
        cells = [
            name,
            found["text"],
            f"{found['picked']['coefficient']:g}",
            "–" if overall is None else f"{overall:.2f}",
        ]
        lines.append(row(cell(text) for text in [*cells, steerings.get(name, "–")]))
    return lines


def _use(told: Told, place: str) -> list[str]:
    model = told.model if told.on_hub else told.spec["model"]
    data = told.spec["task_params"].get("data")
    words = [
        "bench",
        "run",
        "-m",
        "imported",
        "-p",
        f"imported.path={place}",
        "-t",
        told.spec["task"],
        "--model",
        model,
    ]
    command = shlex.join([*words, *(["--data", data] if data else [])])
    return [
        "Each file is one concept's steering, at the strength of the test answers. To measure them again:",
        f"```\npip install {PROJECT}\n{command}\n```",
        "In Python, `bench.load(FILE)` gives the steering of one file.",
    ]
