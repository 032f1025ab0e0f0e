"""SteerEval: what to say, how to say it, and one feature that can be checked, under the same three ratings.

Invariant: no question of a selection or a test is among what is learnt from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, TypedDict

from bench import Choice, Completion, Concept, Example, Pair, Rate, Sample, Train, UsageError, Verdict, digest, task
from bench.core.documents import read_json
from bench.core.paths import expanded
from tasks.axbench import AxBench, rated

FILES = {
    "train": ("train.json", "train_results.json"),
    "valid": ("valid.json",),
    "test": ("test.json", "test_results.json"),
}
"""Of a domain: as the hub has them, then as the authors' generator writes them, which makes no validation."""
LEVEL = re.compile(r"L([123])_\d+")
SAID = re.compile(r"\b(?:words?|phrases?|terms?|expressions?)\b[^\"“‘']{0,20}[\"“‘']([^\"”’']+)[\"”’']", re.IGNORECASE)
"""A concept that says which word is to occur."""


class Row(TypedDict):
    """A question with an answer that shows the concept and one that shows another."""

    question: str
    matching: str
    not_matching: str
    concept: str


@dataclass(frozen=True)
class Told:
    """A concept with its rows: to learn from, to pick settings on, to test."""

    concept: Concept
    train: Sequence[Row]
    select: Sequence[Row]
    test: Sequence[Row]


@task("steereval")
@dataclass(frozen=True)
class SteerEval(AxBench):
    """Concepts at three levels: what to say, how, and one feature that can be checked (arXiv 2603.02578).

    `data`: the folder of SteerEval's domains, or one domain's: `train.json`, `valid.json` and `test.json`, each concept
    id -> rows of question, matching, not_matching and concept. `level`: 1, 2 or 3; 0 for all. A concept is called
    `DOMAIN-L2_5`. Axes, judge and `overall` are AxBench's. `word`: where a concept says which word is to occur, whether
    it does (2) or not (0), read by a program: what the judge says beside it can be checked there. A report shows
    methods by level.

    Both answers are of one question, so that a mean difference points from another concept to this one, and not from
    plain text. Settings are picked on the five validation questions and, where a preset asks for more, on the last
    training questions, which are then learnt from by nobody. Deviations: the authors' coefficients are 1 to 8 for all
    concepts, here they are the protocol's.

    One item: "How did your trip go?" for gratitude shown by a must-have word "beholden": "It went well." has word 0.
    """

    axes: ClassVar[tuple[str, ...]] = ("concept", "instruction", "fluency", "word")
    ratings: ClassVar[int] = 3
    derives: ClassVar[frozenset[str]] = frozenset({"personas"})
    data: str = ""
    level: Literal[0, 1, 2, 3] = 0

    @staticmethod
    def part_of(concept: str) -> str:
        """The level of a concept, by its name."""
        return f"L{found[1]}" if (found := LEVEL.search(concept)) else ""

    @cached_property
    def held(self) -> dict[str, Told]:
        """concept -> all that is known of it."""
        given = expanded(self.data)
        if not self.data or not given.is_dir():
            raise UsageError(f"unknown data {self.data!r}: give the folder of SteerEval's domains, or one of them")
        domains = [given] if _file(given, "train") else sorted(path for path in given.iterdir() if _file(path, "train"))
        if not domains:
            raise UsageError(f"{given} holds no domain: a folder with train.json and test.json")
        found = {told.concept.id: told for folder in domains for told in self._domain(folder)}
        if self.concept and self.concept not in found:
            raise UsageError(f"no concept {self.concept!r} in {given}: the first is {next(iter(found), 'none')!r}")
        kept = [self.concept] if self.concept else list(found)[: self.protocol.concepts or None]
        return {name: found[name] for name in kept}

    def _domain(self, folder: Path) -> list[Told]:
        parts: dict[str, Mapping[str, list[Row]]] = {}
        for part in FILES:
            path = _file(folder, part)
            parts[part] = read_json(path, dict[str, list[Row]], "rows of SteerEval by concept") if path else {}
        made = []
        for name, rows in parts["train"].items():
            if not (level := LEVEL.fullmatch(name)):
                raise UsageError(f"{folder.name}: concept {name!r} has no level: ids are L1_1, L2_1, …")
            if self.level and int(level[1]) != self.level:
                continue
            if not rows or not parts["test"].get(name):
                raise UsageError(f"{folder.name}: concept {name} has no rows in train or test")
            kept = list(parts["valid"].get(name, ()))
            held = min(max(0, self.protocol.select - len(kept)), len(rows) // 2)
            cut = len(rows) - held
            concept = Concept(f"{folder.name}-{name}", rows[0]["concept"])
            made.append(Told(concept, rows[:cut], [*kept, *rows[cut:]], parts["test"][name]))
        return made

    @property
    def digest(self) -> str:
        return digest([(one.concept, one.train, one.select, one.test) for one in self.held.values()])

    @property
    def sources(self) -> Mapping[str, str]:
        return {}

    def concepts(self) -> Sequence[Concept]:
        return [one.concept for one in self.held.values()]

    def train(self, concept: Concept) -> Train:
        rows = self.held[concept.id].train
        return Train(
            concept,
            positives=tuple(Example(row["question"], row["matching"]) for row in rows),
            negatives=tuple(Example(row["question"], row["not_matching"]) for row in rows),
            pairs=tuple(Pair(row["question"], row["matching"], row["not_matching"]) for row in rows),
            choices=tuple(Choice(row["question"], row["matching"], row["not_matching"]) for row in rows),
        )

    def select(self, concept: Concept) -> Sequence[Sample]:
        asked = [row["question"] for row in self.held[concept.id].select]
        return self._samples(concept, "select", asked[: self.protocol.select])

    def test(self, concept: Concept) -> Sequence[Sample]:
        asked = [row["question"] for row in self.held[concept.id].test]
        return self._samples(concept, "test", asked[: self.protocol.test])

    def score(
        self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
    ) -> Sequence[dict[str, Verdict]]:
        rows = rated(samples, outputs, rate)
        return [row | _word(sample, output) for row, sample, output in zip(rows, samples, outputs, strict=True)]


def _file(folder: Path, part: str) -> Path | None:
    return next((path for name in FILES[part] if (path := folder / name).is_file()), None)


def _word(sample: Sample, output: Completion) -> dict[str, Verdict]:
    """Whether the word that a concept asks for occurs; nothing where it asks for none."""
    if not (wanted := SAID.search(sample.concept.text)):
        return {}
    there = re.search(rf"(?<!\w){re.escape(wanted[1])}(?!\w)", output.text, re.IGNORECASE)
    return {"word": Verdict(2.0 if there else 0.0, raw=wanted[1])}
