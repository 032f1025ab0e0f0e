"""Data folders as rows: AxBench's tables, the shipped set's JSON files, one file a concept; how AxBench's are written.

Invariant: every text keeps the file and the row it stands in, so that a finding can name them; what
cannot be read is a finding too, never a row.
"""

from __future__ import annotations

import io
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from bench.core.documents import FAULTS, parsed, read_text, table, told
from bench.core.shapes import Misfit, Range, Text as Spoken, held
from bench.core.store import write_set
from bench.core.values import Pair

TRAIN = "generate/train_data.parquet"
METADATA = "generate/metadata.jsonl"
EVALUATION = "inference/latent_eval_data.parquet"
PREFERENCE = "generate/dpo_train_data*.parquet"
"""Preference tables (RePS): `losing_output` is a plain answer to the instruction; one file for each 500 concepts."""
HUB = {name: f"pyvene/axbench-{name}" for name in ("concept10", "concept500", "conceptFD", "concept16k")}
"""Release -> its data set on the hub."""
ASKED = "alpaca_eval.json"
COLUMNS = ("input", "output", "output_concept", "concept_genre", "category", "concept_id")
"""Columns of both tables that a loader reads."""
PREFERRED = ("input", "winning_output", "losing_output", "concept_id")
"""Those of a preference table, read by name: releases order them differently."""
GENRES = ("text", "math", "code")
CATEGORIES = ("positive", "negative", "hard negative")
"""Of evaluation texts; training texts are of the first two."""


def whole(value: float) -> None:
    """A number that counts."""
    if value != int(value):
        raise ValueError("is no whole number")


Number = Annotated[float, Range(-(2**31), 2**31), whole]
"""A concept's id: some tables hold whole numbers as floats."""


class Row(TypedDict):
    """A row of both tables, but for its category."""

    input: str
    output: str
    output_concept: str | None
    concept_genre: Spoken
    concept_id: Number


class TrainRow(Row):
    category: Literal["positive", "negative"]


class EvaluationRow(Row):
    category: Literal["positive", "negative", "hard negative"]


ROWS = {TRAIN: TrainRow, EVALUATION: EvaluationRow}


class Preferred(TypedDict):
    """A row of a preference table."""

    input: str
    winning_output: str
    losing_output: str
    concept_id: Number


class Asked(TypedDict):
    """An entry of `alpaca_eval.json`."""

    instruction: str


class Described(TypedDict):
    """A line of `metadata.jsonl`."""

    concept_id: Number
    concept: str


SHARED = "-1"
"""Concept of the training negatives, which all concepts of a genre share."""

Split = Literal["train", "evaluation"]


@dataclass(frozen=True)
class Text:
    """One labelled text. `row` counts from 0 as the table does."""

    file: str
    row: int
    split: Split
    concept: str
    category: str
    genre: str
    instruction: str
    response: str
    sense: str = ""
    """The word and other sense a made hard negative shows, as `word//sense`."""


@dataclass(frozen=True)
class Question:
    """One instruction that a steered model will be asked: for one genre, or for all (""); for one concept, or all."""

    file: str
    row: int
    genre: str
    instruction: str
    concept: str = ""


@dataclass(frozen=True)
class Finding:
    """Something wrong: an `error` makes runs refuse the data or mean something else, a `warning` does not."""

    level: Literal["error", "warning"]
    kind: str
    file: str
    row: int | None
    text: str

    @property
    def said(self) -> str:
        """Where, and what."""
        return f"{self.file if self.row is None else f'{self.file} row {self.row}'}: {self.text}"

    def __str__(self) -> str:
        return f"{self.level}: {self.said}"


@dataclass
class Folder:
    """What a folder holds: concepts (id -> text, genre), texts, questions; and what could not be read."""

    form: Literal["axbench", "mini", "own"]
    concepts: dict[str, tuple[str, str]] = field(default_factory=dict)
    texts: list[Text] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    """By concept, where there is a preference table, or where answers come in pairs."""
    personas: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """By concept, in a folder of one file a concept."""
    tests: dict[str, list[Pair]] = field(default_factory=dict)
    """By concept, as `personas`: asked questions that have both answers."""
    findings: list[Finding] = field(default_factory=list)

    @cached_property
    def _by_concept(self) -> dict[tuple[str, str], list[Text]]:
        found: dict[tuple[str, str], list[Text]] = {}
        for text in self.texts:
            found.setdefault((text.concept, text.genre if text.concept == SHARED else ""), []).append(text)
        return found

    def own(self, name: str) -> list[Text]:
        """The texts concept `name` is trained and tested on: its own and its genre's shared negatives."""
        genre = self.concepts[name][1]
        return self._by_concept.get((name, ""), []) + self._by_concept.get((SHARED, genre), [])

    def wrong(self, kind: str, file: str, row: int | None, text: str) -> None:
        self.findings.append(Finding("error", kind, file, row, text))

    def fits(self, value: Any, shape: Any, file: str, row: int) -> bool:
        """Whether a row is of a shape; one that is not becomes a finding."""
        try:
            held(value, shape)
        except Misfit as misfit:
            self.wrong("schema", file, row, str(misfit))
            return False
        return True


@lru_cache(2**17)
def fold(text: str) -> str:
    """`text` but for case, spaces and typographic variants: equal where a reader sees the same words."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read(folder: Path) -> Folder:
    """The folder's rows; `Folder.findings` says what could not be read."""
    if (folder / "genres").is_dir():
        return _read_mini(folder)
    return _read_own(folder) if is_own(folder) else _read_axbench(folder)


def is_own(folder: Path) -> bool:
    """Whether a folder holds one JSON file a concept, and nothing of AxBench's layout."""
    return not (folder / "generate").is_dir() and any(path.name != ASKED for path in folder.glob("*.json"))


# AxBench's tables


def _read_axbench(folder: Path) -> Folder:
    asked = next((place for place in (ASKED, f"data/{ASKED}") if (folder / place).is_file()), None)
    metadata = {METADATA: folder / METADATA} if (folder / METADATA).is_file() else {}
    tables = {TRAIN: folder / TRAIN, EVALUATION: folder / EVALUATION}
    found = read_tables(tables, metadata | ({asked: folder / asked} if asked else {}))
    for path in sorted(folder.glob(PREFERENCE)):
        preferences(path, path.relative_to(folder).as_posix(), found)
    return found


def preferences(path: Path, file: str, found: Folder) -> None:
    """Add a preference table's pairs."""
    for _, values in _rows(path, file, found, Preferred, PREFERRED):
        texts = [values[name] for name in PREFERRED[:3]]
        if texts[1].strip() != texts[2].strip() and texts[2].strip():
            found.pairs.setdefault(str(int(values["concept_id"])), []).append(Pair(*texts))


def read_tables(tables: Mapping[str, Path], lists: Mapping[str, Path]) -> Folder:
    """Tables and lists of AxBench's layout wherever they lie, by the names they have in a folder of it."""
    found = Folder("axbench")
    metadata = _metadata(lists[METADATA], found) if METADATA in lists else {}
    for file, path in tables.items():
        for row, values in _rows(path, file, found, ROWS[file], COLUMNS):
            name, category, genre = str(int(values["concept_id"])), values["category"], values["concept_genre"]
            split: Split = "train" if file == TRAIN else "evaluation"
            if split == "train" and category == "negative":
                name = SHARED  # whatever number a table gives them
            found.texts.append(Text(file, row, split, name, category, genre, values["input"], values["output"]))
            if file == TRAIN and category == "positive":
                found.concepts.setdefault(name, (metadata.get(name, values["output_concept"] or ""), genre))
    for name, text in metadata.items():
        found.concepts.setdefault(name, (text, ""))
    for place, path in lists.items():
        if place.endswith(ASKED):
            for row, entry in enumerate(_json(path, place, found, list[Any]) or ()):
                if found.fits(entry, Asked, place, row):
                    found.questions.append(Question(place, row, "", entry["instruction"]))
    return found


def _metadata(path: Path, found: Folder) -> dict[str, str]:
    """concept id -> concept text."""
    concepts: dict[str, str] = {}
    try:
        content = read_text(path)
    except FAULTS as fault:
        found.wrong("schema", METADATA, None, told(fault))
        return concepts
    for row, line in enumerate(content.split("\n")):
        if not line.strip():
            continue
        try:
            record = held(parsed(line), Described)
        except FAULTS as fault:
            found.wrong("schema", METADATA, row, f"not a concept: {told(fault)}")
            continue
        name = str(int(record["concept_id"]))
        if not record["concept"].strip():
            found.wrong("empty concept", METADATA, row, f"concept {name} has no text")
        if name in concepts:
            found.wrong("schema", METADATA, row, f"concept {name} is there twice")
        concepts[name] = record["concept"]
    return concepts


def _rows(
    path: Path, file: str, found: Folder, shape: Any, columns: Sequence[str]
) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """The rows of a table that are of this shape, by number; any other becomes a finding."""
    if not path.is_file():
        found.wrong("schema", file, None, "there is no such file: not a folder in AxBench's layout")
        return
    try:
        rows = table(path, columns)
    except FAULTS as fault:
        found.wrong("schema", file, None, told(fault))
        return
    for row, values in enumerate(rows):
        if found.fits(values, shape, file, row):
            yield row, values


def write(folder: Path, concepts: Sequence[Mapping[str, Any]], texts: Sequence[Text]) -> None:
    """Write AxBench's three files, all or none; `concepts` have `concept`, `genre` and `ref`, in order of id."""
    write_set({folder / file: content for file, content in encode(concepts, texts).items()})


def encode(concepts: Sequence[Mapping[str, Any]], texts: Sequence[Text]) -> dict[str, bytes]:
    """AxBench's three files by their place in a data folder."""
    import pandas as pd

    lines = [
        {
            "concept_id": i,
            "concept": one["concept"],
            "ref": one.get("ref", ""),
            "concept_genres_map": {one["concept"]: [one["genre"]]},
        }
        for i, one in enumerate(concepts)
    ]
    files = {}
    for file in (TRAIN, EVALUATION):
        rows = [
            {
                "input": t.instruction,
                "output": t.response,
                "output_concept": t.sense or _shown(concepts, t),
                "concept_genre": t.genre,
                "category": t.category,
                "dataset_category": "instruction",
                "concept_id": int(t.concept),
            }
            for t in texts
            if t.file == file
        ]
        buffer = io.BytesIO()
        pd.DataFrame(rows, columns=[*COLUMNS[:5], "dataset_category", "concept_id"]).to_parquet(buffer, index=False)
        files[file] = buffer.getvalue()
    return files | {METADATA: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()}


def _shown(concepts: Sequence[Mapping[str, Any]], text: Text) -> str:
    """The concept column: AxBench marks the shared negatives so."""
    return "EEEEE" if text.concept == SHARED else str(concepts[int(text.concept)]["concept"])


# The shipped set's files


def _read_mini(folder: Path) -> Folder:
    found = Folder("mini")
    shared: dict[str, list[str]] = {}
    for path in sorted(folder.glob("genres/*.json")):
        _guarded(found, folder, path, Genre, lambda file, data: _genre(found, shared, file, data))
    for path in sorted(folder.glob("concepts/*.json")):
        _guarded(found, folder, path, Concept, lambda file, data: _concept(found, shared, file, data))
    return found


def _guarded(found: Folder, folder: Path, path: Path, shape: Any, take: Callable[[str, Any], None]) -> None:
    file = path.relative_to(folder).as_posix()
    if (data := _json(path, file, found, shape)) is not None:
        take(file, data)


class Answered(TypedDict):
    instruction: str
    response: str


class Genre(TypedDict):
    """A file of `genres/`."""

    genre: Spoken
    train: list[Answered]
    evaluation: list[str]


class Concept(TypedDict):
    """A file of `concepts/`, as far as it is checked."""

    name: Spoken
    genre: Spoken
    concept: str
    positives: list[str]
    hard_negatives: list[Answered]


def _genre(found: Folder, shared: dict[str, list[str]], file: str, data: Genre) -> None:
    genre = data["genre"]
    shared[genre] = [entry["instruction"] for entry in data["train"]]
    for row, entry in enumerate(data["train"]):
        one = Text(file, row, "train", SHARED, "negative", genre, entry["instruction"], entry["response"])
        found.texts.append(one)
    found.questions += [Question(file, row, genre, text) for row, text in enumerate(data["evaluation"])]


def _concept(found: Folder, shared: dict[str, list[str]], file: str, data: Concept) -> None:
    name, genre = data["name"], data["genre"]
    found.concepts[name] = (data["concept"], genre)
    if genre not in shared:
        found.wrong("missing genre", file, None, f"concept {name} is of genre {genre!r}, which has no file")
        return
    if len(shared[genre]) != len(data["positives"]):
        count = f"{len(data['positives'])} positives for {len(shared[genre])} training instructions"
        found.wrong("counts", file, None, f"concept {name} has {count}")
    for row, (instruction, response) in enumerate(zip(shared[genre], data["positives"], strict=False)):
        found.texts.append(Text(file, row, "train", name, "positive", genre, instruction, response))
    for row, entry in enumerate(data["hard_negatives"]):
        one = Text(file, row, "train", name, "hard negative", genre, entry["instruction"], entry["response"])
        found.texts.append(one)


# One file a concept


class Answers(TypedDict):
    """A question with an answer that shows the concept and one that does not."""

    question: Spoken
    positive: Spoken
    negative: Spoken


class Sides(TypedDict):
    positive: list[Spoken]
    negative: list[Spoken]


class Own(TypedDict):
    """A concept with its data: NAME.json in a folder of them. `trait` is another word for `concept`."""

    concept: NotRequired[Spoken]
    trait: NotRequired[Spoken]
    answers: list[Answers]
    """For training."""
    questions: NotRequired[list[Spoken]]
    """Asked of a steered model; the first half of all that is asked is for selection, the rest for the test."""
    tests: NotRequired[list[Answers]]
    """The same, with both answers: what multiple choice and detection are tested on."""
    personas: NotRequired[Sides]
    genre: NotRequired[Spoken]


def _agrees(row: Own) -> None:
    """Raise Misfit for a concept without one text, personas without a counterpart, and a question asked twice."""
    if ("concept" in row) == ("trait" in row):
        raise Misfit("needs the concept's text, once", "concept")
    sides = {side: len(row["personas"][side]) for side in ("positive", "negative")} if "personas" in row else {}
    if len(set(sides.values())) > 1:
        raise Misfit(f"has {sides['positive']} positive and {sides['negative']} negative ones", "personas")
    if twice := [text for text, n in Counter(asked_of(row)).items() if n > 1]:
        raise Misfit(f"asks {twice[0]!r} twice", "questions")


OWN = Annotated[Own, _agrees]


def asked_of(row: Own) -> list[str]:
    """All that a steered model is asked, in order."""
    return [*row.get("questions", ()), *(one["question"] for one in row.get("tests", ()))]


def _read_own(folder: Path) -> Folder:
    found = Folder("own")
    for path in sorted(folder.glob("*.json")):
        _guarded(found, folder, path, OWN, lambda file, data: _own(found, file, data))
    return found


def _own(found: Folder, file: str, data: Own) -> None:
    name, genre = Path(file).stem, data.get("genre", "text")
    found.concepts[name] = (data.get("concept") or data.get("trait", ""), genre)
    parts: tuple[tuple[Split, list[Answers]], ...] = (("train", data["answers"]), ("evaluation", data.get("tests", [])))
    for split, rows in parts:
        kept = found.pairs if split == "train" else found.tests
        kept[name] = [Pair(one["question"], one["positive"], one["negative"]) for one in rows]
        for row, one in enumerate(rows):
            for category, text in (("positive", one["positive"]), ("negative", one["negative"])):
                found.texts.append(Text(file, row, split, name, category, genre, one["question"], text))
    found.questions += [Question(file, row, genre, text, name) for row, text in enumerate(asked_of(data))]
    if "personas" in data:
        sides = data["personas"]
        found.personas[name] = tuple(zip(sides["positive"], sides["negative"], strict=True))


def _json(path: Path, file: str, found: Folder, shape: Any) -> Any:
    """A file's value; None, and a finding, where it is not of this shape."""
    try:
        return held(parsed(read_text(path)), shape)
    except FAULTS as fault:
        found.wrong("schema", file, None, told(fault))
        return None
