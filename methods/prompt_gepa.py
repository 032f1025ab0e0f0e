"""GEPA: a prompt that a language model rewrites after reading what was wrong with the answers to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bench import (
    BenchError,
    Budget,
    Context,
    Fitted,
    Item,
    Method,
    Prompt,
    Request,
    Sampling,
    Size,
    Steering,
    Train,
    method,
)
from methods.prompt import wordings

AXES = ("concept", "instruction", "fluency")
REFLECT = (
    "An assistant gets this standing order before each question:\n```\n<curr_param>\n```\n\nBelow are questions, what "
    "it answered, and what a reader thought of the answers.\n\n<side_info>\n\nWrite a better order, so that the reader "
    "finds nothing to complain of in answers to other questions either. Keep what works. Put the new order, and "
    "nothing else, between two lines of ```."
)
WORDS = {
    "concept": ("It does not keep to the order.", "It keeps to the order only in part.", "It keeps to the order."),
    "instruction": (
        "It does not answer the question.",
        "It answers part of the question.",
        "It answers the question.",
    ),
    "fluency": ("It reads badly.", "It reads unevenly.", "It reads well."),
}
"""What a reader says of a rating near 0, 1 and 2."""
ANSWER = 64
"""Tokens of an answer that is rated."""
SHOWN = 4
"""Training texts of a side that are rated, to know whether the texts have the concept or are without it."""


@method(
    "prompt-gepa", surface="prompt", paper="arXiv:2507.19457", needs=["prompt"], uses_prompter=True, uses_judge=True
)
@dataclass(frozen=True)
class Gepa(Method):
    """A prompt evolved by reflection: candidates are rewritten from judged answers, and a Pareto front of them is kept.

    Equation: a parent is drawn by how many of the `prompts` held instructions it is best on; it answers `minibatch`
    training instructions, the run's judge rates them, the prompter reads answers and ratings in words and rewrites it;
    the child stays if it beats its parent on those, and is then rated on the held ones. Score: harmonic mean of the
    three ratings; the concept counts as the training texts have it, present or absent. The best on the held
    instructions is the one setting that the select split sees. Rated answers: as many as a vector's coefficients on
    `prompts` instructions, at most one round over. The package `gepa` runs the search; extra `gepa`.
    Deviations: no merge of candidates; parent and child get the same noise; the prompter is the target model unless
    `--prompter` names one, and a small one rewrites badly.
    Reproduction: the paper reports other tasks, with larger models; it reports no AxBench row, not compared.
    """

    named: ClassVar[bool] = True

    prompts: Size = 4
    minibatch: Size = 3
    tokens: Size = 256

    def candidates(self, budget: Budget) -> int:
        return 1

    def prompt_writing_cost(self, budget: Budget) -> tuple[int, int]:
        calls = self._rated(budget)
        rounds = 1 + calls // (2 * self.minibatch)
        return calls + rounds, calls * ANSWER + rounds * self.tokens

    def fit_ratings(self, budget: Budget) -> int:
        return len(AXES) * self._rated(budget) + 2 * SHOWN

    def _rated(self, budget: Budget) -> int:
        """Answers that are rated, at most. A round that begins below the limit is ended: parent and child on a
        minibatch, the child on what is held."""
        return budget.trials * self.prompts - 1 + 2 * self.minibatch + self.prompts

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        try:
            from gepa.api import optimize
        except ImportError as error:
            raise BenchError("it needs the package gepa: pip install 'steer-or-prompt[gepa]'") from error
        if ctx.rate is None:
            raise BenchError("it learns from a judge's ratings, and there is none")
        asked = list(dict.fromkeys(example.instruction for example in (*train.negatives, *train.positives)))
        held, shown = asked[: self.prompts], asked[self.prompts :] or asked
        loop = Loop(self, ctx, train)
        search: Any = optimize  # its types ask for classes of its own where a function or any object will do
        found = search(
            seed_candidate={"order": _order(wordings(train)[0])},
            trainset=shown,
            valset=held,
            adapter=loop,
            reflection_lm=loop.reflect,
            reflection_prompt_template=REFLECT,
            reflection_minibatch_size=min(self.minibatch, len(shown)),
            max_metric_calls=ctx.budget.trials * self.prompts,
            seed=int(ctx.rng("gepa", train.concept.id).integers(2**31)),
            logger=loop,
            raise_on_exception=True,
        )
        order = found.best_candidate["order"]
        score = float(found.val_aggregate_scores[found.best_idx])
        note = {"prompt": order, "held_score": round(score, 4), "candidates": len(found.candidates)}
        note |= {"rated_answers": loop.rated, "unrated": loop.unrated}
        return [Fitted(Steering(_prompt(order)), note=note)]


def _order(said: Prompt) -> str:
    """A wording as text to be rewritten."""
    return " ".join(part.strip() for part in (said.system, said.prefix, said.suffix) if part.strip())


def _prompt(order: str) -> Prompt:
    return Prompt(prefix=f"{order.strip()}\n\n")


class Loop:
    """What the search asks of us: answers with their ratings, and these in words."""

    propose_new_texts = None
    """The search words its own question to the prompter, from `REFLECT`."""

    def __init__(self, settings: Gepa, ctx: Context, train: Train) -> None:
        self.settings, self.ctx, self.train = settings, ctx, train
        self.rated = self.unrated = 0
        self.wanted = self._shows(train.positives[:SHOWN]) >= self._shows(train.negatives[:SHOWN])

    def _shows(self, texts: Sequence[Any]) -> float:
        """How much texts show the concept, as the judge has it."""
        items = [Item("concept", self.train.concept, text.instruction, text.response) for text in texts]
        return sum(v.value or 0.0 for v in self._rate(items)) / max(1, len(items))

    def _rate(self, items: Sequence[Item]) -> Sequence[Any]:
        assert self.ctx.rate is not None
        return self.ctx.rate(items)

    def evaluate(self, batch: list[str], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """Answers to the instructions `batch` under a candidate, and their scores from 0 to 1."""
        from gepa.core.adapter import EvaluationBatch

        concept, steering = self.train.concept, Steering(_prompt(candidate["order"]))
        requests = []
        for asked in batch:
            seed = int(self.ctx.rng("gepa", concept.id, asked).integers(2**31))
            requests.append(Request((("user", asked),), steering, Sampling(ANSWER), seed))
        answers = dict(self.ctx.lm.generate(requests))
        texts = [(answers[i].spoken or "").strip() or "." for i in range(len(batch))]
        items = [Item(axis, concept, q, a) for q, a in zip(batch, texts, strict=True) for axis in AXES]
        values = [verdict.value for verdict in self._rate(items)]
        rows = [dict(zip(AXES, values[i : i + 3], strict=True)) for i in range(0, len(values), 3)]
        self.rated += len(batch)
        self.unrated += sum(None in row.values() for row in rows)
        traces = [(q, a, self._words(row)) for q, a, row in zip(batch, texts, rows, strict=True)]
        scores = [self._score(row) for row in rows]
        return EvaluationBatch(outputs=texts, scores=scores, trajectories=traces if capture_traces else None)

    def _turned(self, row: Mapping[str, float | None]) -> dict[str, float | None]:
        """The ratings with the concept's turned where the texts are to be without it."""
        concept = row["concept"]
        return {**row, "concept": concept if concept is None or self.wanted else 2 - concept}

    def _score(self, row: Mapping[str, float | None]) -> float:
        """Harmonic mean of the ratings over 2; an answer that has none cannot count for a candidate."""
        values = [value for value in self._turned(row).values() if value]
        return len(AXES) / sum(2 / value for value in values) if len(values) == len(AXES) else 0.0

    def _words(self, row: Mapping[str, float | None]) -> str:
        rated = {axis: value for axis, value in self._turned(row).items() if value is not None}
        return " ".join(WORDS[axis][min(2, round(value))] for axis, value in rated.items())

    def make_reflective_dataset(self, candidate: dict[str, str], evaluated: Any, components: list[str]) -> Any:
        """What the prompter reads: question, answer, and a reader's words."""
        names = ("Question", "Answer", "Reader")
        return {name: [dict(zip(names, trace, strict=True)) for trace in evaluated.trajectories] for name in components}

    def reflect(self, prompt: str) -> str:
        """The prompter's new order, as its reply has it."""
        lm = self.ctx.prompter or self.ctx.lm
        seed = int(self.ctx.rng("reflect", prompt).integers(2**31))
        [(_, reply)] = lm.generate([Request((("user", prompt),), None, Sampling(self.settings.tokens, 0.7), seed)])
        return reply.spoken or ""

    def log(self, message: str) -> None:
        """Nothing: what the search says of itself is not for the terminal."""
