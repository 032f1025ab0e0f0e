"""AxBench-style corpora: the shipped mini set, AxBench's own folder layout, and the hub's releases.

Invariant: a corpus is whole or refused: every concept has positives, negatives and instructions, and
no instruction of a training row is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import BenchError, Choice, Concept, Example, Pair, Train, UsageError, digest, plain

MINI = Path(__file__).parent / "data" / "mini"
HUB = {name: f"pyvene/axbench-{name}" for name in ("concept10", "concept500", "conceptFD", "concept16k")}
UNTESTED = ("concept16k",)
"""Releases without evaluation texts: to steer by, not to detect."""
COLUMNS = ("input", "output", "output_concept", "concept_genre", "category", "concept_id")
POOL = 20
"""Evaluation instructions per concept of the mini set; the first half is for selection."""


@dataclass(frozen=True)
class Corpus:
    """Concepts with their training views, evaluation texts by category, and instructions."""

    trains: dict[str, Train]
    instructions: dict[str, tuple[str, ...]]
    evaluation: dict[str, tuple[tuple[Example, str], ...]]

    @property
    def digest(self) -> str:
        # What a task would have prompts say is the task's, and no data.
        rows = {name: {k: v for k, v in plain(t).items() if k != "prompts"} for name, t in self.trains.items()}
        return digest(rows, self.instructions)

    def limited(self, count: int) -> Corpus:
        keep = list(self.trains)[: count or None]
        return Corpus(
            {k: self.trains[k] for k in keep},
            {k: self.instructions[k] for k in keep},
            {k: self.evaluation[k] for k in keep},
        )


def load(data: str, setting: str) -> Corpus:
    """The corpus named `mini` or as in `HUB`, or a folder in AxBench's layout."""
    if data == "mini":
        corpus = _mini()
    elif data in HUB:
        corpus = _hub(data, setting)
    elif Path(data).expanduser().is_dir():
        folder = Path(data).expanduser()
        try:
            corpus = _folder(folder)
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # pyarrow's and json's are ValueErrors
            reason = str(error).split("\n")[0]
            raise BenchError(f"{folder.name} is not whole: {type(error).__name__}: {reason}") from error
    else:
        raise UsageError(f"unknown data {data!r}: mini, {', '.join(HUB)}, or a folder in AxBench's layout")
    return checked(corpus, data)


def checked(corpus: Corpus, data: str) -> Corpus:
    """The corpus, or why it cannot be used."""
    if not corpus.trains:
        raise BenchError(f"{Path(data).name}: no concept in it")
    for name, train in corpus.trains.items():
        for part, rows in (("positive", train.positives), ("negative", train.negatives)):
            if not rows:
                raise BenchError(f"{data}: concept {name} ({train.concept.text!r}) has no {part} training texts")
        seen = {row.instruction for row in (*train.positives, *train.negatives)}
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
    genres = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(MINI.glob("genres/*.json"))}
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


def _table(path: Path) -> Any:
    import pandas as pd

    if not path.is_file():
        raise BenchError(f"no {path.name} in {path.parent.name}/: not a folder in AxBench's layout")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0][:120]
        raise BenchError(f"{path.name} cannot be read as a table: {reason}") from error
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise BenchError(f"{path.name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    if (gaps := frame[["input", "output"]].isna().any(axis=1)).any():
        row = int(gaps.idxmax())
        raise BenchError(f"{path.name}: row {row} (concept {frame.concept_id[row]}) has no text")
    return frame


def _lines(path: Path) -> dict[int, str]:
    """concept id -> concept text of a metadata.jsonl."""
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
        return {int(row["concept_id"]): str(row["concept"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path.name}: {type(error).__name__}: {error}") from error


def _asked(path: Path) -> list[str]:
    """The instructions of an alpaca_eval.json; AxBench draws ten for each concept."""
    try:
        found = [str(row["instruction"]) for row in json.loads(path.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path.name}: {type(error).__name__}: {error}") from error
    if len(found) < 10:
        raise BenchError(f"{path.name} has {len(found)} instructions; ten are drawn for each concept")
    return found


def _folder(folder: Path) -> Corpus:
    alpaca = next((p for p in (folder / "alpaca_eval.json", folder / "data" / "alpaca_eval.json") if p.is_file()), None)
    asked = _asked(alpaca) if alpaca else None
    metadata = folder / "generate" / "metadata.jsonl"
    concepts = _lines(metadata) if metadata.is_file() else {}
    train = _table(folder / "generate" / "train_data.parquet")
    return _axbench(train, _table(folder / "inference" / "latent_eval_data.parquet"), concepts, asked)


def _hub(data: str, setting: str) -> Corpus:
    from huggingface_hub import hf_hub_download

    def fetch(repo: str, name: str) -> Path:
        try:
            return Path(hf_hub_download(repo, name, repo_type="dataset", etag_timeout=5))
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0][:140]
            raise BenchError(f"cannot fetch {repo}/{name} from the hub: {reason}") from error

    train = _table(fetch(HUB[data], f"{setting}/train/data.parquet"))
    test = train[:0] if data in UNTESTED else _table(fetch(HUB[data], f"{setting}/test/data.parquet"))
    return _axbench(train, test, {}, _asked(fetch("tatsu-lab/alpaca_eval", "alpaca_eval.json")))


def _axbench(train: Any, test: Any, concepts: dict[int, str], asked: list[str] | None) -> Corpus:
    """AxBench's tables: 72 positives per concept, a shared pool of negatives by genre (-1)."""
    import pandas as pd

    def examples(frame: Any) -> tuple[Example, ...]:
        return tuple(Example(i, o) for i, o in zip(frame["input"], frame["output"], strict=True))

    positive, negative = (train[train.category == kind] for kind in ("positive", "negative"))
    owns, tests = (dict(list(frame.groupby("concept_id"))) for frame in (positive, test))
    shared = {genre: examples(frame) for genre, frame in negative.groupby("concept_genre")}
    elsewhere = {genre: tuple(negative[negative.concept_genre != genre].input)[::2] for genre in shared}
    trains: dict[str, Train] = {}
    instructions, evaluation = {}, {}
    for number in sorted(concepts or {int(i) for i in owns}):
        own, held = owns.get(number, positive[:0]), tests.get(number, test[:0])
        text = concepts.get(number) or str(own.output_concept.iloc[0])
        genre = str(own.concept_genre.iloc[0]) if len(own) else "text"
        name = str(number)
        trains[name] = Train(
            Concept(name, text, genre),
            positives=examples(own),
            negatives=shared.get(genre, ()),
            triggers=tuple(e.instruction for e in shared.get(genre, ())),
            others=elsewhere.get(genre, ()),
        )
        evaluation[name] = tuple(
            (example, kind)
            for kind in ("positive", "negative", "hard negative")
            for example in examples(held[held.category == kind])
        )
        if asked is not None:  # AxBench's own draw
            instructions[name] = tuple(pd.Series(asked).sample(10, random_state=number))
        else:
            rows = (*trains[name].positives, *trains[name].negatives)
            free = set(held.input) - {row.instruction for row in rows}
            instructions[name] = _pick(sorted(free), POOL, "axbench", name)
    return Corpus(trains, instructions, evaluation)
