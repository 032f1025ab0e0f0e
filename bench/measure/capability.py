"""Side effects of a run's steering: lm-eval's tasks, and what needs no download.

Invariant: `run.json` stays as it is; what is measured stands beside it in `capability.json`, each entry
under what decides it, and an entry that is there is not measured again.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import results, stats
from bench.core.content import digest
from bench.core.documents import read_json
from bench.core.errors import BenchError, UsageError, suggest
from bench.core.paths import cache_root
from bench.core.rows import Rows
from bench.core.settings import known
from bench.core.steering import Steering
from bench.core.store import write_json
from bench.core.values import Completion, Example, Request, Sampling
from bench.data.basics import BASICS, PATH, basics
from bench.data.neutral import neutral
from bench.results import provenance, sidecars
from bench.run.export import strengths
from bench.stats.surface import distinct

if TYPE_CHECKING:
    from bench.backends.hf.backend import HFBackend

ORDERS = (1, 2, 3)
"""Lengths of the n-grams whose share of distinct ones is reported."""
CONFIG = {
    "task": BASICS,
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(PATH)}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
"""The shipped questions as a task of lm-eval."""


@dataclass(frozen=True)
class Settings:
    """How lm-eval is asked."""

    tasks: tuple[str, ...]
    include: Path | None = None
    limit: int | None = None
    shots: int | None = None
    chat: bool = False

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers besides the model: names, settings, version, the local tasks' files, the shipped
        questions."""
        files = sorted(p for p in self.include.rglob("*") if p.is_file()) if self.include else []
        return {
            "tasks": list(self.tasks),
            "limit": self.limit,
            "shots": self.shots,
            "chat": self.chat,
            "lm_eval": importlib.metadata.version("lm-eval"),
            "include": digest({p.name: p.read_bytes().hex() for p in files}) if files else "",
            **({"basics": digest(basics())} if BASICS in self.tasks else {}),
        }

    @cached_property
    def loaded(self) -> tuple[Any, list[Any]]:
        """lm-eval's index, and the tasks with their documents.

        Raises UsageError where lm-eval or a task is not there, BenchError where a task's documents cannot be had.
        """
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise UsageError(f"lm-eval is not here: pip install 'steer-or-prompt[eval]' ({error})") from error
        include = str(self.include) if self.include else None
        names = [name for name in self.tasks if name != BASICS]
        # Its own index of some ten thousand tasks takes ten seconds: only where a name is not in the user's folder.
        manager = TaskManager(include_path=include, include_defaults=False)
        own = manager.all_tasks
        if not all(manager.match_tasks([name]) for name in names):
            manager = TaskManager(include_path=include)
        for name in names:
            if not manager.match_tasks([name]):
                raise UsageError(f"lm-eval has no task {name!r}: {suggest(name, own or manager.all_tasks)}")
        with _theirs(self.tasks):
            found = manager.load([CONFIG if name == BASICS else name for name in self.tasks])
            return manager, [*found["groups"].values(), *_single(found)]


def _single(found: Mapping[str, Any]) -> list[Any]:
    """The loaded tasks that are in no group."""
    grouped = {task.task_name for group in found["groups"].values() for task in group.get_all_tasks()}
    return [task for name, task in found["tasks"].items() if name not in grouped]


@contextmanager
def _theirs(tasks: Sequence[str]) -> Iterator[None]:
    """A failure of a task's own code, or of its data's hub, as one line."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise BenchError(f"lm-eval on {', '.join(tasks)}: {type(error).__name__}: {reason}") from error


class Capability:
    """The steerings behind a run's number, as picked or at another coefficient, on the run's model, or on `lm` where
    that is there already."""

    def __init__(
        self,
        run: results.Run,
        concept: str = "",
        coefficient: float | None = None,
        tell: Callable[[str], None] = print,
        lm: HFBackend | None = None,
    ) -> None:
        self.run, self.tell = run, tell
        found = strengths(run, concept, coefficient)
        from bench.backends.hf.backend import HFBackend

        self.lm = lm or HFBackend(found.model, run.data["spec"]["dtype"])
        self.coefficients, self.steerings = found.coefficients, found.steerings

    def side_effects(self) -> list[dict[str, Any]]:
        """Per concept: divergence and perplexity on neutral text, length and repetition of answers."""
        rules = self.run.data["spec"]["protocol"]["sampling"]
        sampling = known(Sampling, rules)
        texts = neutral()
        what = {"kind": "side-effects", "texts": digest(texts), "sampling": dataclasses.asdict(sampling)}
        rows = Rows(cache_root() / "rows" / "capability" / self.lm.fingerprint())
        try:
            return [
                self._entry(name, what, lambda steering: measure(self.lm, steering, texts, sampling, rows))
                for name in self.steerings
            ]
        finally:
            rows.close()

    def lm_eval(self, settings: Settings) -> list[dict[str, Any]]:
        """Per concept: lm-eval's metrics of the bare model and the steered one, and their paired difference."""
        what = {"kind": "lm-eval", "settings": settings.identity}
        return [
            self._entry(
                name,
                what,
                lambda steering: contrast(self._evaluated(Steering(), settings), self._evaluated(steering, settings)),
            )
            for name in self.steerings
        ]

    def _entry(
        self, name: str, what: Mapping[str, Any], make: Callable[[Steering], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The entry of a concept in the sidecar; made and written where it is not there."""
        steering, path = self.steerings[name], self.run.path.parent / sidecars.CAPABILITY
        key = digest(what, name, steering.digest, self.lm.fingerprint())[:16]
        if key not in (kept := sidecars.capability(path)["entries"]):
            self.tell(f"{what['kind']}: {name} at c = {self.coefficients[name]:g}")
            head = {**what, "concept": name, "coefficient": self.coefficients[name], "steering": steering.digest}
            entry = head | {"numbers": dict(make(steering)), "provenance": provenance.provenance()}
            kept = sidecars.capability(path)["entries"] | {key: entry}  # another process may have written meanwhile
            write_json(path, {"version": 1, "run": self.run.data["id"], "entries": kept})
        entry = kept[key]
        return dict(entry)

    def _evaluated(self, steering: Steering, settings: Settings) -> dict[str, Any]:
        """lm-eval's results with one value a document, kept in the cache."""
        key = digest(settings.identity, steering.digest, self.lm.fingerprint())
        path = cache_root() / "capability" / f"{key}.json"
        if not path.is_file():
            write_json(path, evaluate(self.lm, steering, settings))
        found: dict[str, Any] = read_json(path, dict[str, dict[str, dict[str, Any]]], "lm-eval's results", "delete it")
        return found


# Without a download


def measure(
    lm: HFBackend, steering: Steering, texts: Sequence[Example], sampling: Sampling, rows: Rows
) -> dict[str, float | None]:
    """Side effects of one steering on plain questions: `[n]` texts read, `[n]` answers written.

    `kl` and the perplexities are per token of the plain answers; `length` is tokens an answer,
    `distinct_n` the share of n-grams of words in an answer that are not repeats. `_bare` is the same of
    the model without steering, its answers drawn with the same noise.
    """
    found = _kept(
        rows,
        [Request((("user", e.instruction),), steering, target=e.response) for e in texts],
        lm.diverge,
    )
    tokens = sum(row["tokens"] for row in found)
    numbers: dict[str, float | None] = {"kl": sum(row["kl"] for row in found) / tokens}
    for name, column in (("perplexity", "steered"), ("perplexity_bare", "bare")):
        numbers[name] = math.exp(min(700.0, -sum(row[column] for row in found) / tokens))
    for name, applied in (("", steering), ("_bare", Steering())):
        asked = [
            Request((("user", e.instruction),), applied, sampling, int(digest("neutral", e.instruction), 16) % 2**63)
            for e in texts
        ]
        answers = [Completion(**row) for row in _kept(rows, asked, lm.generate)]
        numbers[f"length{name}"] = float(np.mean([answer.tokens for answer in answers]))
        numbers[f"ended{name}"] = float(np.mean([answer.finish == "stop" for answer in answers]))
        for n in ORDERS:
            numbers[f"distinct_{n}{name}"] = distinct([answer.spoken or "" for answer in answers], n)
    return {name: None if value is None else float(f"{value:.6g}") for name, value in numbers.items()}


def _kept(
    rows: Rows, requests: Sequence[Request], answer: Callable[[list[Request]], Iterator[tuple[int, Any]]]
) -> list[dict[str, Any]]:
    """What `answer` gives for each request, from `rows` where it is there."""
    keys = [digest(dataclasses.replace(r, steering=None), (r.steering or Steering()).digest) for r in requests]
    todo = {key: request for key, request in zip(keys, requests, strict=True) if key not in rows}
    for mine in rows.portions(todo):
        for i, value in answer([todo[key] for key in mine]):
            rows.put(mine[i], dataclasses.asdict(value))
    return [rows.get(key) for key in keys]


# lm-eval


def evaluate(lm: HFBackend, steering: Steering, settings: Settings) -> dict[str, Any]:
    """task -> metric -> value, stderr, one value a document where lm-eval has them, and whether the steering touched
    anything at all."""
    manager, tasks = settings.loaded
    from lm_eval import simple_evaluate

    from bench.measure.lm_eval import BenchLM

    model = BenchLM(lm, steering)
    with _theirs(settings.tasks), redirect_stderr(StringIO()):  # a bar and warnings for each steering
        found = simple_evaluate(
            model,
            tasks=tasks,
            limit=settings.limit,
            num_fewshot=settings.shots,
            apply_chat_template=settings.chat,
            task_manager=manager,  # else it reads its own index each time
            bootstrap_iters=1000,
        )
    return {
        task: _metrics(row, found["samples"].get(task, []), model.touched) for task, row in found["results"].items()
    }


def _metrics(row: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], touched: bool) -> dict[str, Any]:
    metrics = {}
    for name, value in row.items():
        metric, comma, filtered = name.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = row.get(f"{metric}_stderr,{filtered}")
        values = {str(s["doc_id"]): s.get(metric) for s in samples if s.get("filter", filtered) == filtered}
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
        metrics[metric if filtered == "none" else name] = {
            "value": float(value),
            "stderr": float(error) if isinstance(error, int | float) else None,
            "documents": numbers if len(numbers) == len(values) else {},
            "touched": touched,
        }
    return metrics


def contrast(bare: Mapping[str, Any], steered: Mapping[str, Any]) -> dict[str, Any]:
    """task -> metric -> bare, steered, and their difference, paired by document where that is possible."""
    found: dict[str, Any] = {}
    for task, metrics in steered.items():
        found[task] = {}
        for name, after in metrics.items():
            before = bare[task][name]
            row = {"bare": before["value"], "bare_stderr": before["stderr"]}
            row |= {"steered": after["value"], "steered_stderr": after["stderr"]}
            own, other = after["documents"], before["documents"]
            row |= {"difference": after["value"] - before["value"], "difference_stderr": None, "n": len(own)}
            row["touched"] = after.get("touched", True)
            if len(own) > 1 and own.keys() == other.keys():
                pairs = np.array([own[k] - other[k] for k in own])
                if math.isclose(pairs.mean(), row["difference"], abs_tol=1e-6):  # the metric is a mean over documents
                    row["difference_stderr"] = float(pairs.std(ddof=1) / math.sqrt(len(pairs)))
                    row["changed"] = {k: round(own[k] - other[k], 6) for k in own if own[k] != other[k]}
            found[task][name] = row
    return found


# What a person sees


def lines(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The entries of one kind for a person."""
    yield from _task_lines(entries) if entries[0]["kind"] == "lm-eval" else _effect_lines(entries)


def _task_lines(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    def shown(value: float, error: float | None) -> str:
        return f"{value:8.4f}" + (f" ± {error:.4f}" if error is not None else " " * 9)

    yield f"{'concept':16} {'c':>6}  {'task and metric':32} {'bare':>17} {'steered':>17} {'difference, paired':>20}"
    for entry in entries:
        for task, metrics in entry["numbers"].items():
            for metric, row in metrics.items():
                head = f"{entry['concept']:16} {entry['coefficient']:6g}  {f'{task} {metric}':32}"
                parts = [(row[k], row[f"{k}_stderr"]) for k in ("bare", "steered", "difference")]
                yield " ".join([head, *(shown(*part) for part in parts)])


def _effect_lines(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    columns = {"kl": "KL/token", "perplexity": "perplexity", "length": "length", "distinct_2": "distinct-2"}
    yield f"{'concept':16} {'c':>6}  " + " ".join(f"{title:>19}" for title in columns.values())
    yield f"{'':16} {'':6}  " + " ".join(f"{'' if k == 'kl' else 'bare -> steered':>19}" for k in columns)
    for entry in entries:
        cells = []
        for name in columns:
            value, bare = entry["numbers"][name], entry["numbers"].get(f"{name}_bare")
            known = [f"{v:.4g}" if v is not None else "-" for v in ((bare, value) if name != "kl" else (value,))]
            cells.append(f"{' -> '.join(known):>19}")
        yield f"{entry['concept']:16} {entry['coefficient']:6g}  " + " ".join(cells)
    if len(entries) < 2:
        return
    for name, title in columns.items():
        pairs = [(e["numbers"][name], e["numbers"].get(f"{name}_bare", 0.0)) for e in entries]
        known_pairs = [(one, two) for one, two in pairs if one is not None and two is not None]
        if name == "perplexity":  # a ratio, so that one concept's collapse does not drown the others
            estimate = stats.estimate([math.log(one / two) for one, two in known_pairs])
            mean, low, high = (math.exp(v) for v in (estimate.mean, estimate.low, estimate.high))
            yield f"perplexity, steered over bare: {mean:.4g} ({low:.4g} to {high:.4g})"
        else:
            estimate = stats.estimate([one - two for one, two in known_pairs])
            what = title if name == "kl" else f"{title}, steered minus bare"
            yield f"{what}: {estimate.mean:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"
    yield f"95 % intervals over {len(entries)} concepts"
