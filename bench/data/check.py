"""What is wrong with a data folder: schema, counts, duplicates, leaked splits, empty parts.

Invariant: nothing is mended; each finding names its file and row. An error is what makes a run refuse
the folder or measure something else; what only weakens a number is a warning.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UsageError
from bench.core.paths import expanded, is_folder
from bench.core.shipped import home
from bench.data import layout
from bench.data.layout import GENRES, SHARED, Finding, Folder, Text, fold

SHIPPED = (
    "the shipped set is laid out so, and read by its name alone (--data mini): own concepts go into one JSON file each "
    "(docs/data.md)"
)
QUESTIONS = 4
"""Evaluation instructions a concept needs: two to select on and two to test."""


@dataclass(frozen=True)
class Report:
    """A checked folder: its counts by concept, and the findings, errors first."""

    folder: str
    form: str
    counts: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)


def check(folder: Path) -> Report:
    """Check `folder` in AxBench's layout, in that of the shipped set, or of one file a concept."""
    if not is_folder(folder):
        raise UsageError(f"no folder {folder}")
    data = layout.read(folder)
    counts = {name: _count(data, name) for name in data.concepts}
    found = findings(data)
    if data.form == "mini" and folder.resolve() != place("mini").resolve():
        found.insert(0, Finding("error", "layout", "genres", None, SHIPPED))
    return Report(folder.name, data.form, counts, tuple(found))


def findings(data: Folder) -> list[Finding]:
    """What is wrong with a folder that was read, errors first."""
    found = list(data.findings)
    if not any(finding.row is None and finding.kind == "schema" for finding in found):  # else all is missing
        found += [*_empty(data), *_counts(data), *_duplicates(data), *_contradictions(data), *_leaks(data)]
    return sorted(found, key=lambda f: (f.level != "error", f.file, f.row if f.row is not None else -1))


def _asked(data: Folder, name: str) -> list[tuple[str, int, str]]:
    """(file, row, instruction) of the questions a steered model is asked for a concept."""
    if data.questions:
        genre = data.concepts[name][1]
        own = [q for q in data.questions if q.genre in ("", genre) and q.concept in ("", name)]
        return [(q.file, q.row, q.instruction) for q in own]
    return [(t.file, t.row, t.instruction) for t in data.own(name) if t.split == "evaluation"]


def _count(data: Folder, name: str) -> dict[str, Any]:
    text, genre = data.concepts[name]
    counts = Counter(f"{t.split} {t.category}" for t in data.own(name))
    return {"concept": text, "genre": genre, **counts, "questions": len({q for *_, q in _asked(data, name)})}


def _empty(data: Folder) -> Iterator[Finding]:
    for t in data.texts:
        for part, value in (("instruction", t.instruction), ("response", t.response)):
            if not value.strip():
                kind = f"the {t.category} of concept {t.concept} has an empty {part}"
                yield Finding("error", f"empty {part}", t.file, t.row, kind)
        if t.genre not in GENRES:
            yield Finding("warning", "genre", t.file, t.row, f"genre {t.genre!r} is none of {', '.join(GENRES)}")
    for q in data.questions:
        if not q.instruction.strip():
            yield Finding("error", "empty instruction", q.file, q.row, "an evaluation instruction is empty")


SIDES = ("positive", "negative")


def _counts(data: Folder) -> Iterator[Finding]:
    if not data.concepts:
        yield Finding("error", "empty concept", _home(data), None, "it holds no concept")
    texts: dict[str, str] = {}
    for name, (text, _) in data.concepts.items():
        if (first := texts.setdefault(fold(text), name)) != name and text.strip():
            reason = f"concepts {first} and {name} have one text: {text!r}"
            yield Finding("warning", "duplicate concept", _home(data), None, reason)
    sizes = [sum(t.concept == name and t.split == "train" for t in data.own(name)) for name in data.concepts]
    usual = Counter(sizes).most_common(1)[0][0] if sizes else 0
    for name, (text, genre) in data.concepts.items():
        own = data.own(name)
        train = Counter(t.category for t in own if t.split == "train")
        tested = Counter(t.category for t in own if t.split == "evaluation")
        label = f"concept {name} ({text!r})"
        if not text.strip():
            yield Finding("error", "empty concept", _home(data), None, f"concept {name} has no text")
        if not train["positive"]:
            yield Finding("error", "empty concept", _home(data), None, f"{label} has no positive training texts")
            continue
        if not train["negative"]:
            reason = f"{label} has no negative training texts: none is of its genre {genre!r}"
            yield Finding("error", "missing genre", _home(data), None, reason)
        elif train["positive"] != train["negative"]:
            reason = f"{label} has {train['positive']} positive and {train['negative']} negative training texts"
            yield Finding("warning", "counts", _home(data), None, reason)
        said = {k: {fold(t.response) for t in own if t.split == "train" and t.category == k} for k in SIDES}
        if {""} != said["positive"] <= said["negative"]:
            reason = f"{label} has no positive training text that is not a negative one too"
            yield Finding("error", "contradiction", _home(data), None, reason)
        if train["positive"] != usual and data.form == "axbench":
            reason = f"{label} has {train['positive']} positive training texts, most concepts {usual}"
            yield Finding("warning", "counts", _home(data), None, reason)
        known = {t.instruction for t in own if t.split == "train"}
        if (free := len({q for *_, q in _asked(data, name)} - known)) < QUESTIONS:
            reason = f"{label} has {free} evaluation instructions besides its training ones; {QUESTIONS} are needed"
            yield Finding("error", "counts", _home(data), None, reason)
        if data.form == "axbench" and (gone := [c for c in ("positive", "negative") if not tested[c]]):
            reason = f"{label} has no {' and no '.join(gone)} evaluation texts: detection cannot be measured"
            yield Finding("warning", "counts", layout.EVALUATION, None, reason)


def _home(data: Folder) -> str:
    """The file where a concept that is not whole is missing something."""
    return layout.TRAIN if data.form == "axbench" else "concepts"


def _duplicates(data: Folder) -> Iterator[Finding]:
    """Texts that stand twice in one part of one concept, also but for case and spaces."""
    exact: dict[Any, Text] = {}
    alike: dict[Any, Text] = {}
    answers: dict[Any, Text] = {}
    for t in data.texts:
        part = (t.split, t.concept, t.category, t.genre)
        keys = (exact, (part, t.instruction, t.response)), (alike, (part, fold(t.instruction), fold(t.response)))
        first, near = (seen.setdefault(key, t) for seen, key in keys)
        again = answers.setdefault((part, fold(t.response)), t)
        if first is not t:
            yield _again("duplicate", t, first, "it repeats")
        elif near is not t:
            yield _again("near-duplicate", t, near, "but for case and spaces it repeats")
        elif again is not t and t.response.strip():
            yield _again("duplicate response", t, again, "its response is that of")
    asked: dict[Any, tuple[str, int, str]] = {}
    for q in data.questions:
        before = asked.setdefault((q.concept, q.genre, fold(q.instruction)), (q.file, q.row, q.instruction))
        if before[1] != q.row:
            reason = f"it asks row {before[1]} again: selection and test may share it"
            yield Finding("error", "duplicate question", q.file, q.row, reason)
    if not data.questions:
        for name in data.concepts:
            yield from _alike_questions(data, name)


def _alike_questions(data: Folder, name: str) -> Iterator[Finding]:
    """Evaluation instructions a loader would count as two although they are one."""
    seen: dict[str, tuple[str, int, str]] = {}
    for file, row, text in _asked(data, name):
        before = seen.setdefault(fold(text), (file, row, text))
        if before[2] != text:
            again = f"but for case and spaces it asks row {before[1]} again"
            reason = f"concept {name}: {again}: selection and test may share it"
            yield Finding("error", "duplicate question", file, row, reason)


def _again(kind: str, t: Text, before: Text, words: str) -> Finding:
    where = f"row {before.row}" if before.file == t.file else f"{before.file} row {before.row}"
    concept = "a shared negative" if t.concept == SHARED else f"concept {t.concept}, {t.category}"
    return Finding("warning", kind, t.file, t.row, f"{words} {where} ({concept})")


def _contradictions(data: Folder) -> Iterator[Finding]:
    """A text that is positive and negative for the same concept."""
    for split in ("train", "evaluation"):
        for name in data.concepts:
            own = [t for t in data.own(name) if t.split == split]
            negatives = {(t.instruction, fold(t.response)): t for t in own if t.category != "positive"}
            for t in own:
                key = (t.instruction, fold(t.response))
                if t.category == "positive" and key in negatives:
                    other = negatives[key]
                    reason = f"concept {name}: the same text is a {other.category} ({other.file} row {other.row})"
                    yield Finding("error", "contradiction", t.file, t.row, reason)


def _leaks(data: Folder) -> Iterator[Finding]:
    """Training texts and instructions that are met again in the evaluation of the same concept."""
    for name in data.concepts:
        train = [t for t in data.own(name) if t.split == "train"]
        texts = {(fold(t.instruction), fold(t.response)): t for t in train}
        exact = {t.instruction: t for t in train}
        alike = {fold(t.instruction): t for t in train}
        for t in (t for t in data.own(name) if t.split == "evaluation"):
            if before := texts.get((fold(t.instruction), fold(t.response))):
                reason = f"concept {name}: the text is a training text ({_place(before)})"
                yield Finding("error", "train/test overlap", t.file, t.row, reason)
            elif before := exact.get(t.instruction):
                reason = f"concept {name}: its instruction is a training instruction ({_place(before)})"
                yield Finding("error", "train/test overlap", t.file, t.row, reason)
            elif before := alike.get(fold(t.instruction)):
                yield Finding("warning", "near train/test overlap", t.file, t.row, _near(name, before))
        if not data.questions:
            continue  # the questions are the evaluation texts' own instructions
        for file, row, text in _asked(data, name):
            if before := exact.get(text):
                reason = f"concept {name}: the instruction is a training instruction ({_place(before)})"
                yield Finding("error", "train/test overlap", file, row, reason)
            elif before := alike.get(fold(text)):
                yield Finding("error", "near train/test overlap", file, row, _near(name, before))


def _near(name: str, before: Text) -> str:
    return f"concept {name}: but for case and spaces its instruction is a training instruction ({_place(before)})"


def _place(t: Text) -> str:
    return f"{t.file} row {t.row}"


def place(name: str) -> Path:
    """The folder of a shipped set (`mini`), else `name` as a path."""
    shipped = home("tasks") / "data" / name
    return shipped if is_folder(shipped) and not is_folder(name) else expanded(name)


def plain_report(report: Report) -> dict[str, Any]:
    """The report as JSON types."""
    levels = Counter(finding.level for finding in report.findings)
    head = {"folder": report.folder, "form": report.form, "errors": levels["error"], "warnings": levels["warning"]}
    return head | {"concepts": report.counts, "findings": [vars(finding) for finding in report.findings]}


def lines(report: Report, most: int = 5) -> Iterator[str]:
    """The report for a person: at most `most` findings of each kind and file, then counts over concepts."""
    groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.level, finding.kind, finding.file].append(finding)
    for (level, kind, file), own in groups.items():
        yield from map(str, own[:most])
        if len(own) > most:
            yield f"{level}: {file}: {len(own) - most} more of this kind ({kind}); --json lists all"
    parts = list(dict.fromkeys(part for count in report.counts.values() for part in count))
    for part in (part for part in parts if part not in ("concept", "genre")):
        sizes = [count.get(part, 0) for count in report.counts.values()]
        span = str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
        yield f"{part}: {span} for each concept"
    genres = Counter(count["genre"] or "unknown" for count in report.counts.values())
    yield f"concepts: {len(report.counts)} ({', '.join(f'{n} {genre}' for genre, n in genres.items())})"
    levels = Counter(finding.level for finding in report.findings)
    yield f"{report.folder}: {levels['error']} errors, {levels['warning']} warnings"
