"""The answers behind a table, in files that a browser loads one at a time.

Invariant: every answer that the results keep is in exactly one file, and the index names the file; no file
holds more than about `ANSWERS` answers, whatever the table's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.report.page.encoding import key
from bench.results import second_judge
from bench.results.runs import Run, Tried
from bench.results.tables import Table

ANSWERS = 600
SPLITS = ("test", "select")


@dataclass
class Case:
    """One instruction, and what every method answered."""

    concept: str
    id: str
    split: str
    instruction: str
    answers: list[list[Any]] = field(default_factory=list)
    ratings: dict[int, tuple[Any, Any, Any]] = field(default_factory=dict)
    """row -> overall by the table's judge, by the first other judge, largest gap of an axis; at the pick."""


def shards(table: Table) -> Iterator[tuple[str, Any]]:
    """The index and then the files it names; nothing for a table whose results keep no texts. Memory holds the answers
    of one concept at a time."""
    judges = _judges(table)
    runs = [_Answers(row.run, judges) for row in table.rows]
    concepts = list(dict.fromkeys(name for row in table.rows for name in row.run.data["concepts"]))
    files: list[tuple[str, list[Case]]] = []
    for concept in concepts:
        cases = _cases(runs, concept, ("overall", *table.axes[:-1]))
        for split in SPLITS:
            for i, chunk in enumerate(_chunks([case for case in cases if case.split == split])):
                files.append((f"{key(concept)}-{split}-{i}", chunk))
                yield files[-1][0], {"cases": [case.answers for case in chunk], "prompts": _prompts(table, chunk)}
                for case in chunk:
                    case.answers = []
    if files:
        yield "index", _index(table, concepts, files, judges)


def _prompts(table: Table, chunk: Sequence[Case]) -> list[list[Any]]:
    """Row, candidate and what it put around the questions of a chunk (one concept's), where it put anything."""
    settings = sorted({(answer[0], answer[1]) for case in chunk for answer in case.answers})
    found = ([row, at, table.rows[row].run.prompt(chunk[0].concept, at)] for row, at in settings)
    return [one for one in found if one[2]]


def _chunks(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Cases in order, a new list where the next would make one too large."""
    chunk: list[Case] = []
    for case in cases:
        if chunk and sum(len(c.answers) for c in chunk) + len(case.answers) > ANSWERS:
            yield chunk
            chunk = []
        chunk.append(case)
    if chunk:
        yield chunk


def _index(
    table: Table, concepts: Sequence[str], files: Sequence[tuple[str, Sequence[Case]]], judges: Sequence[str]
) -> dict[str, Any]:
    """What sorting and filtering need: ratings in hundredths, one row of numbers a case."""
    place = {name: i for i, name in enumerate(concepts)}
    texts: dict[str, int] = {}
    rows, numbers = [], ([], [], [])  # type: list[list[int | str]], tuple[list[Any], list[Any], list[Any]]
    for number, (_, chunk) in enumerate(files):
        for at, case in enumerate(chunk):
            said = texts.setdefault(case.instruction, len(texts))
            rows.append([place[case.concept], SPLITS.index(case.split), case.id, said, number, at])
            for i in range(len(table.rows)):
                for kept, value in zip(numbers, case.ratings.get(i, (None, None, None)), strict=True):
                    kept.append(None if value is None else round(100 * value))
    described = {name: str(c["text"]) for row in table.rows for name, c in row.run.data["concepts"].items()}
    return {
        "concepts": [[name, described[name]] for name in concepts],
        "instructions": list(texts),
        "files": [name for name, _ in files],
        "cases": rows,
        "judges": [table.spec["judge"], *(name.rpartition("/")[0] for name in judges)],
        "first": numbers[0],
        "second": numbers[1] if judges else [],
        "gap": numbers[2] if judges else [],
    }


def _judges(table: Table) -> list[str]:
    """The other judges, `name/identity`, those who rated most methods first."""
    found: dict[str, int] = {}
    for row in table.rows:
        for o in second_judge.of(row.run):
            found[_name(o)] = found.get(_name(o), 0) + 1
    return sorted(found, key=lambda name: (-found[name], name))


def _name(opinion: second_judge.JudgeRatings) -> str:
    return f"{opinion.judge}/{second_judge.identity(opinion.judge, opinion.data['judge_params'])}"


class _Answers:
    """What a run keeps of its answers, by concept: those of the select split stay on the disk until they are asked
    for."""

    def __init__(self, run: Run, judges: Sequence[str]) -> None:
        self.run = run
        by_name = {_name(o): o for o in second_judge.of(run)}
        self.others = [
            {s["id"]: s for s in by_name[name].data["samples"]} if name in by_name else {} for name in judges
        ]
        self.tested: dict[str, list[Mapping[str, Any]]] = {}
        for sample in run.data["samples"]:
            self.tested.setdefault(sample["concept"], []).append(sample)
        self.tried = Tried(run)

    def of(self, concept: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(split, answer): on the test split, then on the select split, where the run keeps them."""
        for split, samples in (("test", self.tested.get(concept, ())), ("select", self.tried.of(concept))):
            yield from ((split, sample) for sample in samples if "text" in sample)


def _cases(runs: Sequence[_Answers], concept: str, axes: Sequence[str]) -> list[Case]:
    found: dict[tuple[str, str], Case] = {}
    for i, own in enumerate(runs):
        if concept not in own.run.data["concepts"]:
            continue
        pick = own.run.data["concepts"][concept]["picked"]
        for split, sample in own.of(concept):
            at = (split, sample["id"])
            case = found.setdefault(at, Case(concept, sample["id"], split, sample.get("instruction", "")))
            setting = {k: sample.get(k, pick[k]) for k in ("candidate", "coefficient")}
            seen = [rated.get(sample["id"]) if split == "test" else None for rated in own.others]
            chosen = setting == pick
            case.answers.append([*_answer(i, setting, sample, seen, axes), int(chosen)])
            if chosen:
                case.ratings[i] = _summary(sample, seen[0] if seen else None, axes)
    return list(found.values())


def _answer(
    row: int, setting: Mapping[str, Any], sample: Mapping[str, Any], others: Sequence[Any], axes: Sequence[str]
) -> list[Any]:
    """Row, candidate, coefficient, text, tokens, positions touched, and each judge's number and ratings."""
    judged = [[0, *_rated(sample, axes)], *([i, *_rated(s, axes)] for i, s in enumerate(others, 1) if s)]
    positions_edited = sum(sample.get("touched") or [])
    return [
        row,
        setting["candidate"],
        setting["coefficient"],
        sample["text"],
        sample.get("tokens"),
        positions_edited,
        judged,
    ]


def _rated(sample: Mapping[str, Any], axes: Sequence[str]) -> list[Any]:
    """Ratings, then what the judge said and why a rating is missing, where there is either."""
    ratings = [sample["ratings"].get(axis) for axis in axes]
    said, reasons = sample.get("said") or {}, sample.get("reasons") or {}
    texts = [[a, str(said[a])] for a in axes if a in said]
    why = [[a, str(reasons[a])] for a in axes if a in reasons]
    return [ratings, texts, why] if why else [ratings, texts] if texts else [ratings]


def _summary(sample: Mapping[str, Any], other: Mapping[str, Any] | None, axes: Sequence[str]) -> tuple[Any, Any, Any]:
    one = sample["ratings"]
    two = other["ratings"] if other else {}
    gaps = [abs(one[a] - two[a]) for a in axes if one.get(a) is not None and two.get(a) is not None]
    return one.get("overall"), two.get("overall"), max(gaps, default=None)
