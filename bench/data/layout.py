"""Data folders as rows: AxBench's tables, the shipped set's JSON files, and how AxBench's are written.

Invariant: every text keeps the file and the row it stands in, so that a finding can name them; what
cannot be read is a finding too, never a row.
"""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bench.core.store import write_set
from bench.core.values import Pair

TRAIN = "generate/train_data.parquet"
METADATA = "generate/metadata.jsonl"
EVALUATION = "inference/latent_eval_data.parquet"
PREFERENCE = "generate/dpo_train_data*.parquet"
"""Preference tables (RePS): `losing_output` is a plain answer to the instruction; one file for each 500 concepts."""
ASKED = "alpaca_eval.json"
COLUMNS = ("input", "output", "output_concept", "concept_genre", "category", "concept_id")
"""Columns of both tables that a loader reads."""
PREFERRED = ("input", "winning_output", "losing_output", "concept_id")
"""Those of a preference table, read by name: releases order them differently."""
GENRES = ("text", "math", "code")
CATEGORIES = {TRAIN: ("positive", "negative"), EVALUATION: ("positive", "negative", "hard negative")}
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
    """One instruction that a steered model will be asked: for one genre, or for all ("")."""

    file: str
    row: int
    genre: str
    instruction: str


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

    form: Literal["axbench", "mini"]
    concepts: dict[str, tuple[str, str]] = field(default_factory=dict)
    texts: list[Text] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    """By concept, where there is a preference table."""
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


def fold(text: str) -> str:
    """`text` but for case, spaces and typographic variants: equal where a reader sees the same words."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read(folder: Path) -> Folder:
    """The folder's rows; `Folder.findings` says what could not be read."""
    return _read_mini(folder) if (folder / "genres").is_dir() else _read_axbench(folder)


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
    for row, values in _rows(path, file, found, PREFERRED):
        texts = [values[name] for name in PREFERRED[:3]]
        name = _number(values["concept_id"])
        if name is None or not all(isinstance(text, str) for text in texts):
            found.wrong("schema", file, row, "its concept_id is no number, or one of its texts is none")
        elif texts[1].strip() != texts[2].strip() and texts[2].strip():
            found.pairs.setdefault(name, []).append(Pair(*texts))


def read_tables(tables: Mapping[str, Path], lists: Mapping[str, Path]) -> Folder:
    """Tables and lists of AxBench's layout wherever they lie, by the names they have in a folder of it."""
    found = Folder("axbench")
    metadata = _metadata(lists[METADATA], found) if METADATA in lists else {}
    for file, path in tables.items():
        for row, values in _table(path, file, found):
            name, category, genre = (
                str(int(values["concept_id"])),
                str(values["category"]),
                str(values["concept_genre"]),
            )
            split: Split = "train" if file == TRAIN else "evaluation"
            texts = str(values["input"]), str(values["output"])
            found.texts.append(Text(file, row, split, name, category, genre, *texts))
            if file == TRAIN and category == "positive":
                found.concepts.setdefault(name, (metadata.get(name, str(values["output_concept"])), genre))
    for name, text in metadata.items():
        found.concepts.setdefault(name, (text, ""))
    for place, path in lists.items():
        if place.endswith(ASKED):
            entries = _json(path, place, found)
            for row, entry in enumerate(entries if isinstance(entries, list) else []):
                if isinstance(entry, Mapping) and isinstance(entry.get("instruction"), str):
                    found.questions.append(Question(place, row, "", entry["instruction"]))
                else:
                    found.wrong("schema", place, row, "it has no instruction")
    return found


def _metadata(path: Path, found: Folder) -> dict[str, str]:
    """concept id -> concept text."""
    concepts: dict[str, str] = {}
    for row, line in enumerate(path.read_text("utf-8", errors="replace").split("\n")):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name, text = str(int(record["concept_id"])), record["concept"]
        except (ValueError, KeyError, TypeError) as error:
            found.wrong("schema", METADATA, row, f"not a concept: {type(error).__name__}: {error}")
            continue
        if not isinstance(text, str) or not text.strip():
            found.wrong("empty concept", METADATA, row, f"concept {name} has no text")
        if name in concepts:
            found.wrong("schema", METADATA, row, f"concept {name} is there twice")
        concepts[name] = str(text)
    return concepts


def _table(path: Path, file: str, found: Folder) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """Readable rows of a table, by number; a row that is not readable becomes a finding."""
    for row, values in _rows(path, file, found, COLUMNS):
        if reason := _unreadable(values, CATEGORIES[file]):
            found.wrong("schema", file, row, reason)
        else:
            yield row, values


def _rows(path: Path, file: str, found: Folder, columns: Sequence[str]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """All rows of a table that has these columns."""
    import pandas as pd

    if not path.is_file():
        found.wrong("schema", file, None, "there is no such file: not a folder in AxBench's layout")
        return
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        found.wrong("schema", file, None, f"cannot be read as a table: {str(error).splitlines()[0]}")
        return
    if missing := [name for name in columns if name not in frame.columns]:
        found.wrong("schema", file, None, f"it lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
        return
    yield from enumerate(frame[list(columns)].to_dict("records"))


def _unreadable(values: Mapping[str, Any], categories: Sequence[str]) -> str:
    if not isinstance(values["input"], str) or not isinstance(values["output"], str):
        return f"concept {values['concept_id']}: its input or output is no text"
    if values["category"] not in categories:
        return f"category {values['category']!r} is none of {', '.join(categories)}"
    return "" if _number(values["concept_id"]) else f"concept_id {values['concept_id']!r} is no number"


def _number(value: Any) -> str | None:
    """A concept's id as texts have it."""
    try:
        return str(int(value))
    except (TypeError, ValueError):
        return None


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
        _guarded(found, folder, path, lambda file, data: _genre(found, shared, file, data))
    for path in sorted(folder.glob("concepts/*.json")):
        _guarded(found, folder, path, lambda file, data: _concept(found, shared, file, data))
    return found


def _guarded(found: Folder, folder: Path, path: Path, take: Callable[[str, Any], None]) -> None:
    file = path.relative_to(folder).as_posix()
    data = _json(path, file, found)
    if data is None:
        return
    try:
        take(file, data)
    except (KeyError, TypeError, ValueError) as error:
        found.wrong("schema", file, None, f"{type(error).__name__}: {error}")


def _genre(found: Folder, shared: dict[str, list[str]], file: str, data: Any) -> None:
    genre = data["genre"]
    shared[genre] = [entry["instruction"] for entry in data["train"]]
    for row, entry in enumerate(data["train"]):
        one = Text(file, row, "train", SHARED, "negative", genre, entry["instruction"], entry["response"])
        found.texts.append(one)
    found.questions += [Question(file, row, genre, text) for row, text in enumerate(data["evaluation"])]


def _concept(found: Folder, shared: dict[str, list[str]], file: str, data: Any) -> None:
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


def _json(path: Path, file: str, found: Folder) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        found.wrong("schema", file, None, f"it is not JSON: {error}")
        return None
