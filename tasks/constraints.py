"""Verifiable rules: does the answer keep a rule of form, and is it still an answer? No model judges.

Invariant: every score is a function of the question and the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from bench import (
    Completion,
    Concept,
    Example,
    Protocol,
    Rate,
    Sample,
    Task,
    Train,
    UsageError,
    Verdict,
    digest,
    task,
)
from bench.core.paths import expanded
from bench.judges import ifeval
from bench.stats.surface import distinct
from tasks._axbench_data import genre, sides
from tasks._rules import PAIRS, RULES, Rule, shipped
from tasks.axbench import overall

ORDERS = (
    "{instruction}\n\n{order}",
    "{order}",
    "{order}\n\n{instruction}",
    "{instruction} {order}",
    "One rule holds for all that you write, whatever you are asked. {order}",
    "{instruction}\n\nRemember: {order}",
    "Before all else, keep to this: {order}\n\n{instruction}",
    "{instruction}\n\n(Rule for the whole answer: {order})",
    "An answer that breaks the following rule is worth nothing. {order}",
    "{instruction}\n\nYour answer is checked by a program for one thing. {order}",
    "Rule: {order}\nQuestion: {instruction}",
    "You are known for {text}, and you do so in every answer.",
    "{instruction}\n\nAnswer by {text}.",
    "Your style is {text}. Keep to it from the first word to the last.",
)
"""As many as the largest preset has judged trials, so that prompts get the budget that vectors get."""
FILE = "input_data.jsonl"
SOUND = (0.5, 0.9)
"""Shares of distinct pairs of words from which a text is no loop, and from which it is as sound as any."""


@task("constraints")
@dataclass(frozen=True)
class Constraints(Task):
    """One rule of form at a time, read by a program (after IFEval, arXiv 2311.07911).

    `rule`: how far the answer keeps it, 0 to 1, graded; `strict`: whether it does in whole; `loose`: whether it does
    without asterisks, its first line or its last. `answer`: whether a word of the question's topic occurs, in whichever
    language; `sound`: whether it loops (distinct pairs of words: 0 up to half of them, 1 from nine in ten). `overall`,
    which decides, is the harmonic mean of `rule`, `answer` and `sound`, and 0 where one is. Twelve rules: languages,
    length, case, punctuation, lists, marks, JSON, a word that must be said and one that must not. Training texts are
    the shipped set's plain answers brought under the rule by a program; the Spanish and French ones are written. No
    question of a test or a selection states a rule. `answer` and `sound` are floors that a broken text falls through,
    not measures of quality.

    One item: "Why do cats purr?" for capitals: "CATS PURR WHEN THEY ARE CALM." has rule 1, answer 1, sound 1; "Cats
    purr when they are CALM." has rule .17; "YES YES YES YES YES" answers nothing and is 0.
    """

    axes: ClassVar[tuple[str, ...]] = ("rule", "strict", "loose", "answer", "sound")
    scale: ClassVar[float] = 1.0
    rated: ClassVar[bool] = False
    told: ClassVar[str] = "rules and answers read by a program"
    protocol: Protocol

    @cached_property
    def plain(self) -> tuple[list[Example], list[str]]:
        """Plain questions with answers, and questions to ask."""
        return genre("text")

    @cached_property
    def others(self) -> tuple[str, ...]:
        """Questions of other kinds, where a conditional method should not act."""
        return tuple(e.instruction for kind in ("code", "math") for e in genre(kind)[0])[::2]

    @property
    def digest(self) -> str:
        return digest(super().digest, shipped()["topics"])

    @property
    def names(self) -> Sequence[tuple[str, ...]]:
        """The rules of each concept."""
        return [(name,) for name in RULES]

    def concepts(self) -> Sequence[Concept]:
        keep = self.protocol.concepts or len(self.names)
        return [
            Concept("+".join(names), ", and ".join(RULES[name].text for name in names)) for names in self.names[:keep]
        ]

    def train(self, concept: Concept) -> Train:
        plain = self.plain[0]
        names = parts(concept)
        shown = []
        for place, example in enumerate(plain):
            text = example.response
            for name in sorted(names, key=list(RULES).index):
                text = RULES[name].make(text, place)
            shown.append(Example(example.instruction, text))
        order = " ".join(RULES[name].order for name in names)
        return Train(
            concept,
            **sides(plain, shown),
            personas=(
                (f"someone known for {concept.text}", f"someone who cannot stand {concept.text}"),
                (f"a writer whose mark is {concept.text}", f"a writer who never thinks of {concept.text}"),
            ),
            triggers=tuple(e.instruction for e in plain),
            others=self.others,
            prompts=tuple(line.replace("{order}", order).replace("{text}", concept.text) for line in ORDERS),
        )

    def select(self, concept: Concept) -> Sequence[Sample]:
        return self._samples(concept, "select")

    def test(self, concept: Concept) -> Sequence[Sample]:
        return self._samples(concept, "test")

    def _samples(self, concept: Concept, split: Literal["select", "test"]) -> list[Sample]:
        """A concept's questions of a split: each begins elsewhere in the half that the split has."""
        half = len(self.plain[1]) // 2
        pool = self.plain[1][:half] if split == "select" else self.plain[1][half:]
        n = min(getattr(self.protocol, split), len(pool))
        begin = self.names.index(parts(concept)) * n
        asked = [pool[(begin + i) % len(pool)] for i in range(n)]
        return [
            Sample(f"{concept.id}/{split}/{i}", concept, split, "generate", (("user", text),))
            for i, text in enumerate(asked)
        ]

    def score(
        self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
    ) -> Sequence[dict[str, Verdict]]:
        return [self._row(sample, output) for sample, output in zip(samples, outputs, strict=True)]

    def _row(self, sample: Sample, output: Completion) -> dict[str, Verdict]:
        rules = [RULES[name] for name in parts(sample.concept)]
        cut = output.finish == "length"
        grades = [_number(rule.grade(output.text, cut)) for rule in rules]
        row = {
            "rule": overall(grades),
            "strict": _number(all(grade.value == 1 for grade in grades)),
            "loose": _number(all(_loosely(rule, output.text, cut) for rule in rules)),
            "answer": _number(on_topic(sample.instruction, output.text)),
            "sound": _number(sound(output.text)),
        }
        if len(grades) > 1:
            row |= dict(zip(("first", "second"), grades, strict=True))
        return row | {"overall": overall([*grades, row["answer"], row["sound"]])}


@task("constraints-two")
@dataclass(frozen=True)
class TwoConstraints(Constraints):
    """Two rules at once: does what was learnt of both keep both?

    As `constraints`, with twelve pairs that can be kept together, each rule in two of them. `first` and `second`: how
    far each is kept; `rule`: their harmonic mean; `strict`, `loose`: both in whole; `overall`: the harmonic mean of
    both, `answer` and `sound`. A report with a table of `constraints` says how much of a rule, kept alone, is left.

    One item: "Why do cats purr?" for capitals and no commas: "CATS PURR, AND REST." has second 1, and first 0.0000037.
    """

    axes: ClassVar[tuple[str, ...]] = ("rule", "first", "second", "strict", "loose", "answer", "sound")
    composes: ClassVar[str] = "constraints"

    @property
    def names(self) -> Sequence[tuple[str, ...]]:
        return PAIRS


@task("ifeval")
@dataclass(frozen=True)
class IFEval(Constraints):
    """IFEval's own prompts under a steering to something else: are instructions still followed (arXiv 2311.07911)?

    A side effect and no target: the prompt states its instructions itself. Fits and settings are those of
    `constraints`, picked for their rule on its questions; the test asks prompts of `data`, IFEval's `input_data.jsonl`
    or its folder. There `rule` (and `overall`) is the share of a prompt's instructions that are kept, `strict` and
    `loose` whether all are. What an answer that was cut off leaves open is missing, so give it tokens:
    `-p protocol.sampling.max_new_tokens=512`. The language of a text is read by langdetect (the extra `ifeval`);
    without it those instructions are missing.

    One item: "Write about a lake, without commas." under a vector for Spanish: "Un lago tranquilo." keeps what it says.
    """

    axes: ClassVar[tuple[str, ...]] = ("rule", "strict", "loose", "sound")
    decides: ClassVar[bool] = False
    data: str = ""

    @cached_property
    def rows(self) -> dict[str, ifeval.Row]:
        """prompt -> its line."""
        given = expanded(self.data)
        path = given / FILE if given.is_dir() else given
        if not self.data or not path.is_file():
            raise UsageError(f"unknown data {self.data!r}: give IFEval's {FILE}, or its folder")
        return {row["prompt"]: row for row in ifeval.read(path)}

    @property
    def digest(self) -> str:
        return digest(super().digest, list(self.rows.values()))

    def test(self, concept: Concept) -> Sequence[Sample]:
        n, asked = 8 * self.protocol.test, list(self.rows)
        begin = self.names.index(parts(concept)) * n
        own = [asked[(begin + i) % len(asked)] for i in range(min(n, len(asked)))]
        return [
            Sample(f"{concept.id}/test/{i}", concept, "test", "generate", (("user", text),), unit=digest(text))
            for i, text in enumerate(own)
        ]

    def _row(self, sample: Sample, output: Completion) -> dict[str, Verdict]:
        if sample.split == "select":
            row = super()._row(sample, output)
            return {axis: row[axis] for axis in (*self.axes, "overall")}
        asked = self.rows[sample.instruction]
        cut = output.finish == "length"
        strict, loose = (
            [
                _kept(kind, given, output.text, cut, how)
                for kind, given in zip(asked["instruction_id_list"], ifeval.arguments(asked), strict=True)
            ]
            for how in ("strict", "loose")
        )
        known = [verdict.value for verdict in strict if verdict.value is not None]
        share = Verdict(float(np.mean(known))) if known else strict[0]
        row = {"rule": share, "strict": _all(strict), "loose": _all(loose), "sound": _number(sound(output.text))}
        return row | {"overall": share}


def parts(concept: Concept) -> tuple[str, ...]:
    """The names of a concept's rules."""
    return tuple(concept.id.split("+"))


def plain_texts() -> list[str]:
    """The shipped answers that no rule was brought into."""
    return [e.response for e in genre("text")[0]]


def on_topic(question: str, text: str) -> bool:
    """Whether a word of the question's topic occurs, of the shipped list in three languages."""
    wanted = tuple(shipped()["topics"][question])
    return any(word.casefold().startswith(wanted) for word in re.findall(r"\w+", text))


def sound(text: str) -> float:
    """0 for a loop or fewer than three words, 1 where nearly no two words stand together twice."""
    low, high = SOUND
    share = distinct([text], 2) if len(text.split()) > 2 else None
    return 0.0 if share is None else min(1.0, max(0.0, (share - low) / (high - low)))


def _number(value: float) -> Verdict:
    return Verdict(float(value))


def _loosely(rule: Rule, text: str, cut: bool) -> bool:
    return any(rule.grade(part, cut) == 1 for part in ifeval.variants(text) if part.strip())


def _kept(kind: str, given: ifeval.Arguments, text: str, cut: bool, how: str) -> Verdict:
    """Whether an answer keeps one instruction; missing where that cannot be told, or what was cut off could tell."""
    try:
        kept = (ifeval.keeps if how == "strict" else ifeval.keeps_loosely)(kind, given, text)
    except ifeval.Unchecked as error:
        return Verdict(None, reason=str(error))
    if cut and ifeval.open_still(kind, given, kept):
        return Verdict(None, reason="cut off before it could be told")
    return _number(kept)


def _all(verdicts: Sequence[Verdict]) -> Verdict:
    """1 where every one holds, 0 where one does not, missing where that is open."""
    if any(verdict.value == 0 for verdict in verdicts):
        return Verdict(0.0)
    return next((verdict for verdict in verdicts if verdict.value is None), Verdict(1.0))
