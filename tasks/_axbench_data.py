"""AxBench-style corpora: the shipped mini set, AxBench's own folder layout, and the hub's releases.

Invariant: a corpus is whole or refused: every concept has positives, negatives and instructions, and
no instruction of a training row is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench import BenchError, Choice, Concept, Example, Pair, Train, UsageError, digest, plain
from bench.core.errors import suggest
from bench.core.hub import downloaded, fetch
from bench.core.paths import expanded, is_folder
from bench.data.check import findings
from bench.data.layout import ASKED, CATEGORIES, EVALUATION, HUB, TRAIN, Folder, Text, fold, is_own, read, read_tables
from bench.data.views import joined

MINI = Path(__file__).parent / "data" / "mini"
PARTS = {TRAIN: "train", EVALUATION: "test"}
"""Where a release keeps each table: `SETTING/PART/data.parquet`."""
UNTESTED = ("concept16k",)
"""Releases without evaluation texts: to steer by, not to detect."""
POOL = 20
"""Evaluation instructions per concept of the mini set; the first half is for selection."""


@dataclass(frozen=True)
class Corpus:
    """Concepts with their training views, evaluation texts by category, and instructions."""

    trains: dict[str, Train]
    instructions: dict[str, tuple[str, ...]]
    evaluation: dict[str, tuple[tuple[Example, str], ...]]
    sources: Mapping[str, str] = field(default_factory=dict)
    """Training view -> where it is from, where that is not the data's own."""

    @property
    def digest(self) -> str:
        # What a task would have prompts say is the task's, and no data.
        rows = {name: {k: v for k, v in plain(t).items() if k != "prompts"} for name, t in self.trains.items()}
        return digest(rows, self.instructions)

    def limited(self, count: int, name: str = "") -> Corpus:
        """Its first `count` concepts (0: all), or the one that is called `name`."""
        if name and name not in self.trains:
            raise UsageError(f"no concept {name!r} in the data: {suggest(name, self.trains)}")
        keep = [name] if name else list(self.trains)[: count or None]
        return Corpus(
            {k: self.trains[k] for k in keep},
            {k: self.instructions[k] for k in keep},
            {k: self.evaluation[k] for k in keep},
            self.sources,
        )


def load(data: str, setting: str, revision: str = "") -> Corpus:
    """The corpus named `mini` or as in `HUB` (at a revision of the release), or a folder in AxBench's layout."""
    if revision and data not in HUB:
        raise UsageError(f"revision {revision!r} is of a release on the hub, and data is {data!r}")
    if data == "mini":
        corpus = _mini()
    elif data in HUB:
        corpus = _hub(data, setting, revision)
    elif is_folder(data):
        folder, release = downloaded(expanded(data))
        if release:
            asked = {ASKED: folder / ASKED} if (folder / ASKED).is_file() else {}
            tables = {file: folder / setting / part / "data.parquet" for file, part in PARTS.items()}
            corpus = _corpus(
                read_tables({f: p for f, p in tables.items() if f == TRAIN or p.is_file()}, asked), release
            )
        elif is_own(folder):
            corpus = _own(sound(read(folder), data))
        else:
            corpus = _corpus(sound(read(folder), data), folder.name)
    else:
        raise UsageError(f"unknown data {data!r}: mini, {', '.join(HUB)}, or a folder (docs/data.md has the layouts)")
    return checked(corpus, data)


def sound(folder: Folder, data: str) -> Folder:
    """A user's folder, or its first error: what `bench data check` calls one makes a number mean something else."""
    errors = [finding for finding in findings(folder) if finding.level == "error"]
    errors.sort(key=lambda finding: finding.kind != "schema")  # what cannot be read is missing elsewhere too
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BenchError(f"{Path(data).name} is not whole: {errors[0].said}{more}; bench data check {data} lists all")
    return folder


def checked(corpus: Corpus, data: str) -> Corpus:
    """The corpus, or why it cannot be used."""
    if not corpus.trains:
        raise BenchError(f"{Path(data).name}: no concept in it")
    for name, train in corpus.trains.items():
        for part, rows in (("positive", train.positives), ("negative", train.negatives)):
            if not rows:
                raise BenchError(f"{data}: concept {name} ({train.concept.text!r}) has no {part} training texts")
        seen = {row.instruction for rows in (train.positives, train.negatives, train.pairs) for row in rows}
        asked = corpus.instructions[name]
        if len(asked) < 4:
            raise BenchError(f"{data}: concept {name} has {len(asked)} evaluation instructions, at least 4 are needed")
        if again := seen & set(asked):
            raise BenchError(f"{data}: concept {name} asks a training instruction again: {min(again)!r}")
    return corpus


def _pick(pool: Sequence[str], count: int, *salt: str) -> tuple[str, ...]:
    """`count` of `pool`, the same on every machine."""
    rng = np.random.default_rng(int(digest(*salt), 16))
    return tuple(pool[i] for i in rng.permutation(len(pool))[:count])


def _mini() -> Corpus:
    genres = _genres()
    trains: dict[str, Train] = {}
    instructions = {}
    for path in sorted(MINI.glob("concepts/*.json")):
        row = json.loads(path.read_text("utf-8"))
        name, genre = row["name"], genres[row["genre"]]
        shared = [Example(e["instruction"], e["response"]) for e in genre["train"]]
        both = list(zip(shared, row["positives"], strict=True))
        trains[name] = Train(
            Concept(name, row["concept"], row["genre"]),
            positives=tuple(Example(e.instruction, text) for e, text in both),
            negatives=tuple(shared),
            hard_negatives=tuple(Example(h["instruction"], h["response"]) for h in row["hard_negatives"]),
            pairs=tuple(Pair(e.instruction, text, e.response) for e, text in both),
            choices=tuple(Choice(c["question"], c["matching"], c["not_matching"]) for c in row["choices"]),
            personas=tuple(zip(row["personas"]["positive"], row["personas"]["negative"], strict=True)),
            triggers=tuple(e["instruction"] for e in genre["train"]),
            others=tuple(e["instruction"] for k, g in genres.items() if k != row["genre"] for e in g["train"])[::2],
        )
        instructions[name] = _pick(genre["evaluation"], POOL, "mini", name)
    return Corpus(trains, instructions, dict.fromkeys(trains, ()))


def _hub(data: str, setting: str, revision: str) -> Corpus:
    tables = {
        file: fetch(HUB[data], f"{setting}/{part}/data.parquet", "dataset", revision)
        for file, part in PARTS.items()
        if file == TRAIN or data not in UNTESTED
    }
    return _corpus(read_tables(tables, {ASKED: fetch("tatsu-lab/alpaca_eval", ASKED, "dataset")}), data)


def _corpus(folder: Folder, name: str) -> Corpus:
    """AxBench's rows as views: positives of each concept, and a pool of negatives that its genre shares."""
    if folder.findings:
        raise BenchError(f"{name} is not whole: {folder.findings[0].said}")
    asked = [question.instruction for question in folder.questions]
    if asked and len(asked) < 10:
        raise BenchError(f"{ASKED} of {name} has {len(asked)} instructions; ten are drawn for each concept")
    by_concept: dict[tuple[str, str, str], list[Text]] = {}
    for t in folder.texts:
        by_concept.setdefault((t.split, t.concept, t.category), []).append(t)
    negatives = [t for t in folder.texts if t.split == "train" and t.category == "negative"]
    shared = {genre: _examples(t for t in negatives if t.genre == genre) for genre in {t.genre for t in negatives}}
    trains: dict[str, Train] = {}
    instructions: dict[str, tuple[str, ...]] = {}
    evaluation: dict[str, tuple[tuple[Example, str], ...]] = {}
    sources: dict[str, str] = {}
    for key in sorted(folder.concepts, key=int):
        text, genre = folder.concepts[key]
        genre = genre or "text"
        positives, plain = _examples(by_concept.get(("train", key, "positive"), ())), shared.get(genre, ())
        pairs = tuple(folder.pairs.get(key, ()))
        if pairs:
            sources["pairs"] = "preference table"
        else:  # a plain answer to some of them alone is no set to learn from
            found = joined(positives, {e.instruction: e.response for e in plain})
            pairs = found if len(found) == len(positives) else ()
        others = tuple(t.instruction for t in negatives if t.genre != genre)[::2]
        if plain and not others:
            shipped = (one["train"] for kind, one in _genres().items() if kind != genre)
            others = tuple(e["instruction"] for train in shipped for e in train)
            sources["conditions"] = "instructions of the shipped set"
        trains[key] = Train(
            Concept(key, text, genre),
            positives=positives,
            negatives=plain,
            pairs=pairs,
            triggers=tuple(e.instruction for e in plain),
            others=others if plain else (),
        )
        tests = {kind: by_concept.get(("evaluation", key, kind), []) for kind in CATEGORIES}
        evaluation[key] = tuple((example, kind) for kind, texts in tests.items() for example in _examples(texts))
        if asked:  # AxBench's own draw
            import pandas as pd

            instructions[key] = tuple(pd.Series(asked).sample(10, random_state=int(key)))
        else:
            own = trains[key]
            seen = {fold(row.instruction) for rows in (own.positives, own.negatives, own.pairs) for row in rows}
            free = {t.instruction for texts in tests.values() for t in texts if fold(t.instruction) not in seen}
            instructions[key] = _pick(sorted(free), POOL, "axbench", key)
    return Corpus(trains, instructions, evaluation, sources)


def _own(folder: Folder) -> Corpus:
    """One file a concept as views: every question comes with both answers, so they are pairs and choices too."""
    trains: dict[str, Train] = {}
    instructions: dict[str, tuple[str, ...]] = {}
    evaluation: dict[str, tuple[tuple[Example, str], ...]] = {}
    shipped = _genres()
    for name, (text, genre) in folder.concepts.items():
        pairs = tuple(folder.pairs[name])
        trains[name] = Train(
            Concept(name, text, genre),
            positives=tuple(Example(one.instruction, one.positive) for one in pairs),
            negatives=tuple(Example(one.instruction, one.negative) for one in pairs),
            pairs=pairs,
            choices=tuple(Choice(one.instruction, one.positive, one.negative) for one in pairs),
            personas=folder.personas.get(name, ()),
            triggers=tuple(one.instruction for one in pairs),
            others=tuple(e["instruction"] for kind, one in shipped.items() if kind != genre for e in one["train"]),
        )
        instructions[name] = tuple(q.instruction for q in folder.questions if q.concept == name)
        tests = folder.tests[name]
        evaluation[name] = (
            *((Example(one.instruction, one.positive), "positive") for one in tests),
            *((Example(one.instruction, one.negative), "negative") for one in tests),
        )
    return Corpus(trains, instructions, evaluation, {"conditions": "instructions of the shipped set"})


@cache
def _genres() -> dict[str, Any]:
    """The genres of the shipped set, as their files have them."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(MINI.glob("genres/*.json"))}


def _examples(texts: Iterable[Text]) -> tuple[Example, ...]:
    return tuple(Example(t.instruction, t.response) for t in texts)


@cache
def genre(kind: str) -> tuple[list[Example], list[str]]:
    """The shipped plain questions of a kind with their answers, and those to ask."""
    row = json.loads((MINI / "genres" / f"{kind}.json").read_text("utf-8"))
    return [Example(e["instruction"], e["response"]) for e in row["train"]], list(row["evaluation"])


def sides(plain: Sequence[Example], shown: Sequence[Example]) -> dict[str, Any]:
    """Fields of `Train` where the same instructions are answered without the concept and with it."""
    both = list(zip(plain, shown, strict=True))
    return {
        "positives": tuple(shown),
        "negatives": tuple(plain),
        "pairs": tuple(Pair(a.instruction, b.response, a.response) for a, b in both),
        "choices": tuple(Choice(a.instruction, b.response, a.response) for a, b in both),
    }
