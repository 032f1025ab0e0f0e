"""An Inspect log (`.eval`), for `inspect view` and what reads its logs."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from bench.core.errors import UsageError
from bench.core.escape import name as file_name
from bench.core.ranges import PROJECT
from bench.core.steering import Prompt
from bench.report.formats.told import Told, rated
from bench.results.runs import Run

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample, EvalScore
    from inspect_ai.model import ChatMessage


def inspect_files(run: Run) -> dict[str, bytes]:
    """File name, as Inspect names its logs -> the log. Raises UsageError where Inspect is not installed."""
    try:
        from inspect_ai.log import (
            EvalConfig,
            EvalDataset,
            EvalLog,
            EvalResults,
            EvalRevision,
            EvalSpec,
            EvalStats,
            write_eval_log,
        )
        from inspect_ai.model import GenerateConfig
    except ImportError as error:
        raise UsageError(f"--format inspect needs Inspect: pip install '{PROJECT}[inspect]' ({error})") from error
    told = Told(run)
    data, spec, when = run.data, told.spec, told.when.isoformat()
    rules, commit = spec["protocol"], data.get("provenance", {}).get("commit")
    samples = [_sample(told, one) for one in told.samples]
    log = EvalLog(
        status="success",
        eval=EvalSpec(
            eval_id=data["id"],
            run_id=data["id"],
            task_id=data["group"],
            created=when,
            task=f"{PROJECT}/{spec['task']}",
            task_args=spec["task_params"],
            solver=spec["method"],
            solver_args=spec["method_params"],
            tags=[spec["method"], rules["preset"]],
            dataset=EvalDataset(
                name=told.data_set or spec["task_params"].get("data") or spec["task"],
                samples=len(samples),
                sample_ids=[str(sample.id) for sample in samples],
            ),
            model=f"{spec['backend']}/{told.model}",
            model_generate_config=GenerateConfig(
                max_tokens=rules["sampling"]["max_new_tokens"],
                temperature=rules["sampling"]["temperature"],
                top_k=rules["sampling"]["top_k"],
                seed=rules["seed"],
            ),
            config=EvalConfig(),
            revision=EvalRevision(type="git", origin="", commit=commit) if commit else None,
            packages={PROJECT: told.version},
            metadata={key: spec[key] for key in ("protocol", "judge", "data", "weights", "dtype")}
            | {"judge_params": told.judge_params}
            | {"code": run.data["code"], "surface": run.surface},
        ),
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=_scores(told),
        ),
        stats=EvalStats(started_at=when, completed_at=when),
        samples=samples,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.eval"
        write_eval_log(log, path)
        content = _settled(path.read_bytes())
    stamp = when.replace(":", "-")
    return {f"{stamp}_{file_name(spec['task'])}_{data['id']}.eval": content}


def _settled(log: bytes) -> bytes:
    """The log without the times at which its parts were packed, so that it is the same whenever it is written."""
    made = io.BytesIO()
    with ZipFile(io.BytesIO(log)) as given, ZipFile(made, "w") as new:
        for part in given.namelist():
            new.writestr(ZipInfo(part), given.read(part), ZIP_DEFLATED)
    return made.getvalue()


def _scores(told: Told) -> list[EvalScore]:
    """The mean of each axis, which is over concepts, with its interval."""
    from inspect_ai.log import EvalMetric, EvalScore

    found = []
    for score in sorted(told.scores, key=lambda one: one.axis != "overall"):  # a viewer's heading has room for a few
        count = sum(score.axis in rated(sample) for sample in told.samples)
        meta = {"low": score.low, "high": score.high, "level": 0.95, "method": told.resampled, "units": score.units}
        mean = EvalMetric(name="mean", value=score.mean, metadata=meta | {"scale": told.scale})
        found.append(
            EvalScore(
                name=score.axis,
                scorer=told.run.kind,
                scored_samples=count,
                unscored_samples=len(told.samples) - count,
                metrics={"mean": mean},
            )
        )
    return found


def _sample(told: Told, sample: Mapping[str, Any]) -> EvalSample:
    """One answer, or one text that a detector scored, with the ratings that it has."""
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput, ModelUsage
    from inspect_ai.scorer import Score

    asked, name = _messages(told, sample), str(sample["id"])
    said = sample.get("text", sample.get("withheld", f"{sample['score']:g}" if "score" in sample else ""))
    cut = sample.get("tokens", 0) >= told.spec["protocol"]["sampling"]["max_new_tokens"]
    answer = ChatMessageAssistant(id=f"{name}/answer", content=said, model=told.model, source="generate")
    choice = ChatCompletionChoice(message=answer, stop_reason="max_tokens" if cut else "stop")
    why = {**sample.get("said", {}), **sample.get("reasons", {})}
    explained: dict[str, Any] = {"explanation": "\n".join(f"{axis}: {text}" for axis, text in why.items()) or None}
    explained["answer"] = said
    ratings = dict(sorted(rated(sample).items(), key=lambda one: one[0] != "overall"))
    wrote = sample.get("tokens", 0)
    usage = {told.model: ModelUsage(output_tokens=wrote, total_tokens=wrote)} if wrote else {}
    kept = ("concept", "label", "score", "tokens", "touched", "turn", "question", "unit", "cluster", "withheld")
    prompt = told.prompt(sample)
    return EvalSample(
        id=name,
        epoch=1,
        input=list(asked) or "",
        target=sample.get("label", ""),
        messages=[*asked, answer],
        output=ModelOutput(model=told.model, choices=[choice], completion=said),
        scores={told.run.kind: Score(value=ratings, **explained) if ratings else Score.unscored(**explained)},
        model_usage=usage,
        metadata={key: sample[key] for key in kept if key in sample}
        | {"picked": told.data["concepts"][sample["concept"]]["picked"]}
        | ({"prompt": prompt} if prompt else {}),
    )


def _messages(told: Told, sample: Mapping[str, Any]) -> list[ChatMessage]:
    """What the model was asked: with the prompt around it, but in a dialogue, whose task says which turns it is in."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    makes = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    chat = told.chat(sample)
    if chat and "turn" not in sample:
        stated = told.prompt(sample)
        shots = tuple((user, answer) for user, answer in stated.get("shots", ()))
        chat = list(Prompt(**stated | {"shots": shots}).apply(tuple(chat)))
    return [makes[role](id=f"{sample['id']}/{i}", content=content) for i, (role, content) in enumerate(chat)]
