"""The prompting methods: what they ask, from which texts, and how many trials they spend."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.cli.main import main
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context, Fitted
from bench.core.naming import build_method
from bench.core.steering import Prompt, Steering
from bench.core.values import Completion, Concept, Example, Item, Request, Sample, Sampling, TargetScore, Train, Verdict
from bench.run.contract import BUDGET, example_train
from bench.run.plan import Options, make
from bench.run.spending import spend
from methods.prompt import LINES
from methods.prompt_best_of_n import SelfRated
from methods.prompt_search import Search, _cut

TRAIN = example_train()
SHOTS = [(e.instruction, e.response) for e in TRAIN.positives]
COUNTS: dict[str, Callable[[int], int]] = {
    "prompt": lambda trials: min(trials, len(LINES)),
    "prompt-engineered": lambda trials: trials,
    "prompt-persona": lambda trials: min(trials, 4 * len(TRAIN.personas)),
    "prompt-fewshot": lambda trials: trials,
    "prompt-manyshot": lambda trials: 1,
    "prompt-search": lambda trials: trials,
    "prompt-best-of-n": lambda trials: 1,
}
"""Candidates of each method by the budget's judged trials."""


def ask(text: str) -> tuple[tuple[str, str], ...]:
    return (("user", text),)


def fit(name: str, ctx: Context, train: Train = TRAIN, **params: Any) -> Sequence[Fitted]:
    return build_method(name, {name: params}).fit(ctx, train)


def prompts(found: Sequence[Fitted]) -> list[Prompt]:
    made = [fitted.steering for fitted in found]
    assert all(isinstance(one, Steering) and not one.scalable for one in made)
    return [one.prompt for one in made]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", COUNTS)
def test_a_prompting_method_spends_no_more_trials_than_a_vector(name: str) -> None:
    made = build_method(name, {})
    assert made.prompted
    for trials in (1, 2, 3, 5, 14):
        budget = replace(BUDGET, trials=trials)
        found = prompts(made.fit(Context(FakeBackend(), budget), TRAIN))
        assert len(found) == COUNTS[name](trials) <= made.candidates(budget) <= trials
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", COUNTS)
def test_a_fit_is_the_same_again_and_belongs_to_its_seed_alone(name: str) -> None:
    one, two = (prompts(fit(name, Context(FakeBackend(), BUDGET))) for _ in range(2))
    assert one == two
    drawn = prompts(fit(name, Context(FakeBackend(), BUDGET, seed=1))) != one
    assert drawn == (name in ("prompt-engineered", "prompt-fewshot"))  # search: its proposals rank too low here


@pytest.mark.parametrize("name", ["prompt", "prompt-engineered", "prompt-search", "prompt-best-of-n"])
def test_a_concept_with_braces_is_named_as_it_is(name: str) -> None:
    odd = replace(TRAIN, concept=Concept("sets", "sets {a, b} and {concept} or {text}"))
    ctx = Context(FakeBackend(), BUDGET)
    named = ("sets {a, b} and", "or {text}")
    lines = [str(prompt.apply(ask("Why?"))) for prompt in prompts(fit(name, ctx, odd))]
    assert any(all(part in line for part in named) for line in lines)
    assert any("Why?" in line for line in lines)


# Examples


def test_shots_are_training_positives() -> None:
    ctx = Context(FakeBackend(), replace(BUDGET, trials=5))
    found = fit("prompt-fewshot", ctx, k=3)
    for fitted, prompt in zip(found, prompts(found), strict=True):
        assert len(set(prompt.shots)) == len(prompt.shots) == 3
        assert [SHOTS[i] for i in fitted.note["shots"]] == list(prompt.shots)
        assert (prompt.system, prompt.prefix, prompt.suffix) == ("", "", "")
    assert len({prompt.shots for prompt in prompts(found)}) == 5
    few = replace(TRAIN, positives=TRAIN.positives[:2])
    assert {len(prompt.shots) for prompt in prompts(fit("prompt-fewshot", ctx, few))} == {2}
    with pytest.raises(UsageError, match="k = 0 is not from 1"):
        build_method("prompt-fewshot", {"prompt-fewshot": {"k": 0}})


def test_shots_stand_before_the_question_as_turns() -> None:
    (prompt, *_) = prompts(fit("prompt-fewshot", Context(FakeBackend(), BUDGET), k=2))
    (one, two) = prompt.shots
    turns = prompt.apply((("system", "Be brief."), ("user", "Why?")))
    assert turns == (
        ("system", "Be brief."),
        ("user", one[0]),
        ("assistant", one[1]),
        ("user", two[0]),
        ("assistant", two[1]),
        ("user", "Why?"),
    )


def test_many_shots_end_before_the_context_does_and_keep_their_order(lm: HFBackend) -> None:
    assert lm.context == 1024
    many = replace(TRAIN, positives=tuple(Example(f"Say {i}.", "A ship at sea. " * (2 + i % 3)) for i in range(40)))
    ctx = Context(lm, BUDGET)
    for share in (0.25, 0.75):
        (fitted,) = fit("prompt-manyshot", ctx, many, share=share)
        (prompt,) = prompts([fitted])
        count = len(prompt.shots)
        assert 1 < count == fitted.note["shots"] < 40
        assert list(prompt.shots) == [(e.instruction, e.response) for e in many.positives[:count]]
        read = lm.count(prompt.apply(ask("Why?")))
        assert read < share * 1024 + lm.count(ask("Why?"))
        longer = Prompt(shots=(*prompt.shots, (many.positives[count].instruction, many.positives[count].response)))
        # What every turn costs on its own, header and all, is what fills the context.
        spent = sum(lm.count(e.messages) for e in many.positives[: count + 1])
        assert spent > share * 1024 >= spent - lm.count(many.positives[count].messages)
        assert lm.count(longer.apply(ask("Why?"))) > read
    done = dict(lm.generate([Request(ask("Why?"), Steering(prompt), Sampling(4, 0))]))[0]
    assert done.prompt_tokens == read
    (prompt,) = prompts(fit("prompt-manyshot", ctx))
    assert list(prompt.shots) == SHOTS[: len(prompt.shots)]


def test_many_shots_are_all_shots_where_they_fit() -> None:
    (prompt,) = prompts(fit("prompt-manyshot", Context(FakeBackend(), BUDGET)))
    assert list(prompt.shots) == SHOTS


def test_a_persona_prompt_asks_for_the_positive_personas() -> None:
    found = prompts(fit("prompt-persona", Context(FakeBackend(), replace(BUDGET, trials=9))))
    assert all(prompt == Prompt(system=prompt.system) for prompt in found)
    for positive, negative in TRAIN.personas:
        assert sum(positive in prompt.system for prompt in found) == 4
        assert not any(negative in prompt.system for prompt in found)
    first_two = prompts(fit("prompt-persona", Context(FakeBackend(), replace(BUDGET, trials=2))))
    assert [positive in p.system for p, (positive, _) in zip(first_two, TRAIN.personas, strict=True)] == [True, True]


# Search


class Favours(FakeBackend):
    """Writes the same kind of line to every request, and finds answers likely after one wording."""

    def __init__(self, wording: str, write: str = "Please {concept} {i}.\nAnd more.") -> None:
        super().__init__()
        self.wording, self.write = wording, write
        self.written: list[Request] = []
        self.scored: list[Request] = []

    def generate(self, requests):  # type: ignore[no-untyped-def]
        self.written += requests
        for i in reversed(range(len(requests))):
            yield i, Completion(self.write.replace("{i}", str(i)), 5, 10)

    def logprobs(self, requests):  # type: ignore[no-untyped-def]
        self.scored += requests
        for i in reversed(range(len(requests))):
            asked = str(requests[i].steering.prompt.apply(requests[i].prompt))
            words = len(requests[i].target.split())
            likely = -0.1 if self.wording in asked else -1.0 - 0.001 * len(asked)
            yield i, TargetScore((likely,) * words)


@pytest.mark.parametrize("wording", ["Subject to include", "Please ships and sailing 3.", "every sentence"])
def test_search_keeps_the_likeliest_wordings(wording: str) -> None:
    lm = Favours(wording)
    found = fit("prompt-search", Context(lm, replace(BUDGET, trials=5)))
    merits = [fitted.note["loglik"] for fitted in found]
    assert wording in str(prompts(found)[0])
    assert merits[0] == -0.1
    assert merits == sorted(merits, reverse=True)
    assert len(lm.written) == 5
    assert not any("And more." in str(prompt) for prompt in prompts(found))  # one sentence each
    # Three proposals for each trial, each scored on the same training answers.
    assert len(lm.scored) == (len(LINES) + 5) * Search().probes


def test_search_sees_training_positives_and_nothing_else() -> None:
    lm = Favours("-")
    made = Search(probes=3)
    (found,) = made.fit_all(Context(lm, BUDGET), [TRAIN])
    assert len(found) == BUDGET.trials
    asked = {e.instruction: _cut(e.response) for e in TRAIN.positives[:3]}
    assert {r.prompt[0][1]: r.target for r in lm.scored} == asked
    answers = [_cut(e.response) for e in TRAIN.positives]
    for request in lm.written:
        text = request.prompt[0][1]
        assert TRAIN.concept.text in text
        assert sum(answer in text for answer in answers) == 2
        assert not any(e.response in text for e in TRAIN.negatives)
    assert made.prompt_writing_cost(BUDGET) == (len(lm.written), len(lm.written) * made.tokens)


def test_concepts_searched_together_are_searched_as_alone() -> None:
    other = replace(TRAIN, concept=Concept("other", "old clocks"), positives=TRAIN.positives[:2])
    made, trains = Search(), [TRAIN, other, TRAIN]
    together = [prompts(found) for found in made.fit_all(Context(FakeBackend(), BUDGET), trains)]
    assert together == [prompts(made.fit(Context(FakeBackend(), BUDGET), train)) for train in trains]
    assert all("old clocks" in str(prompt) for prompt in together[1])


def test_a_prompter_that_repeats_a_wording_or_says_nothing_is_not_asked_to_be_judged_twice() -> None:
    for write in ("", "  \n more"):
        lm = Favours("-", write)
        found = prompts(fit("prompt-search", Context(lm, replace(BUDGET, trials=14))))
        assert len(found) <= len(LINES) + 1
        assert len(set(found)) == len(found)
    found = prompts(fit("prompt-search", Context(Favours("-", "The same."), replace(BUDGET, trials=20))))
    assert len(set(found)) == len(found) == len(LINES) + 1


# Best of n


class Rates(FakeBackend):
    """Finds `most` likely where the reply is full of ships, `some` where it has one, else `none`."""

    def logprobs(self, requests):  # type: ignore[no-untyped-def]
        self.asked = [r.prompt[0][1] for r in requests]
        for i in reversed(range(len(requests))):
            seen = min(2, requests[i].prompt[0][1].count("ship") - 1)  # one is in the concept's name
            yield i, TargetScore((-0.1 if requests[i].target == ("none", "some", "most")[seen] else -4.0,))


@pytest.mark.parametrize(
    ("answers", "pick"),
    [
        (("A box.", "A ship.", "A ship, a ship!"), 2),
        (("A ship, a ship!", "A ship.", "A box."), 0),
        (("A box.", "A ship.", "A lamp."), 1),
        (("A box.", "A lamp."), 0),  # a tie goes to the first
        (("A box.",), 0),
    ],
)
def test_the_reply_that_the_model_rates_highest_is_kept(answers: tuple[str, ...], pick: int) -> None:
    lm = Rates()
    sample = Sample("s", Concept("c", "ship"), "test", "generate", ask("Why?"))
    assert SelfRated("ship", len(answers)).pick(Context(lm, BUDGET), sample, answers) == pick
    assert len(lm.asked) == 3 * len(answers)
    assert all(any(answer in text for text in lm.asked) for answer in answers)


def test_best_of_n_draws_as_many_answers_as_the_budget_has_trials_unless_told() -> None:
    for params, n in (({}, BUDGET.trials), ({"n": 7}, 7)):
        (fitted,) = fit("prompt-best-of-n", Context(FakeBackend(), BUDGET), **params)
        assert fitted.chooser == SelfRated(TRAIN.concept.text, n)
        assert fitted.note == {"n": n}
        assert build_method("prompt-best-of-n", {"prompt-best-of-n": params}).samples_per_prompt(BUDGET) == n


@pytest.mark.slow
def test_best_of_n_pays_for_every_answer_it_draws(tmp_path: Path) -> None:
    words = ["run", "-m", "prompt-best-of-n,none", "--backend", "fake", "-n", "2", "--json"]
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    done = CliRunner().invoke(main, words, env=env)
    assert done.exit_code == 0, done.stderr
    several, none = (json.loads(Path(row["path"]).read_text("utf-8")) for row in json.loads(done.stdout)["runs"])
    concepts, n, asked, tokens = 2, 3, 2 + 3, 32  # preset quick: three trials, select and test, new tokens
    assert several["counts"]["generations"] == concepts * n * asked
    assert several["counts"]["tokens"] == concepts * n * asked * tokens
    assert {s["tokens"] for s in several["samples"]} == {n * tokens}
    assert several["draws"] == n
    assert "draws" not in none
    assert none["counts"]["generations"] == concepts * asked
    assert {s["tokens"] for s in none["samples"]} == {tokens}
    assert len(several["samples"]) == concepts * 3
    assert {c["note"]["n"] for c in several["concepts"].values()} == {n}
    # The same command again draws nothing, and picks the same.
    rows = [p for p in (tmp_path / "cache").rglob("*.jsonl") if "generations" in p.parts]
    lines = sum(p.read_bytes().count(b"\n") for p in rows)
    assert lines == concepts * asked * (n + 1)
    for path in (tmp_path / "results").rglob("run.json"):
        path.unlink()
    again = CliRunner().invoke(main, words, env=env)
    kept = [json.loads(Path(row["path"]).read_text("utf-8"))["samples"] for row in json.loads(again.stdout)["runs"]]
    assert kept == [several["samples"], none["samples"]]
    assert "0 generations made now" in again.stderr


def test_a_choice_among_answers_is_counted_in_the_cost_and_cannot_be_merged() -> None:
    plan = make(Options(methods=("prompt-best-of-n", "none"), backend="fake", limit=1))
    best, none = (spend(made, plan.protocol, plan.task) for made in plan.methods)
    n, rules = plan.protocol.budget.trials, plan.protocol
    assert (best.generations, best.ratings) == (n * none.generations, none.ratings)
    assert best.tokens == best.generations * rules.sampling.max_new_tokens
    with pytest.raises(UsageError, match="cannot be merged"):
        build_method("prompt-best-of-n+diffmean", {})
    for n in (1, -1):
        with pytest.raises(UsageError, match=r"2 to 1000 answers|is not 0 or more"):
            build_method("prompt-best-of-n", {"prompt-best-of-n": {"n": n}})


def test_a_combination_asks_for_what_its_parts_ask_for() -> None:
    merged = build_method("prompt-search+persona", {})
    assert (merged.uses_judge, merged.uses_prompter, merged.needs_all_concepts) == (True, True, False)
    assert not build_method("prompt+diffmean", {}).uses_judge
    assert build_method("prompt+sae", {}).needs_all_concepts


class Rewrites(FakeBackend):
    """A prompter whose every order is another; and a model that answers with the order it was given."""

    def __init__(self, orders: Sequence[str]) -> None:
        super().__init__()
        self.orders, self.read = list(orders), list[str]()

    def generate(self, requests):  # type: ignore[no-untyped-def]
        for i, request in enumerate(requests):
            asked = request.prompt[-1][1]
            if "standing order" in asked:
                self.read.append(asked)
                text = f"```\n{self.orders[(len(self.read) - 1) % len(self.orders)]}\n```"
            else:
                text = request.steering.prompt.prefix.strip()
            yield i, Completion(text, 4, 4)


def rate_sailing(items: Sequence[Item]) -> list[Verdict]:
    """Answers that sail, and training texts with ships, show the concept; all else is perfect."""
    shown = [any(word in item.text for word in ("sail", "ship")) for item in items]
    return [Verdict(2.0 if item.axis != "concept" or there else 0.5) for item, there in zip(items, shown, strict=True)]


def test_gepa_keeps_the_order_that_the_judge_likes_and_reads_why() -> None:
    lm = Rewrites(["Talk of gardens.", "Let it sail."])
    rated: list[Item] = []

    def rate(items: Sequence[Item]) -> list[Verdict]:
        rated.extend(items)
        return rate_sailing(items)

    ctx = Context(lm, replace(BUDGET, trials=5), rate=rate)
    train = replace(TRAIN, prompts=("Be brief.",))
    [found] = fit("prompt-gepa", ctx, train, prompts=2)
    assert prompts([found])[0].prefix == "Let it sail.\n\n"
    assert found.note["held_score"] == pytest.approx(1)
    assert "It does not keep to the order" in lm.read[0] or "only in part" in lm.read[0]
    assert found.note["rated_answers"] <= 5 * 2 + 2 * (3 + 2)  # a round that has begun is ended
    assert len(rated) <= build_method("prompt-gepa", {"prompt-gepa": {"prompts": 2}}).fit_ratings(ctx.budget)
    assert found.note["unrated"] == 0
    held = list(dict.fromkeys(e.instruction for e in (*train.negatives, *train.positives)))[:2]
    assert not any(question in read for question in held for read in lm.read)


def test_gepa_turns_the_concept_where_the_texts_are_to_be_without_it() -> None:
    lm = Rewrites(["Let it sail.", "Talk of gardens."])
    ctx = Context(lm, replace(BUDGET, trials=5), rate=rate_sailing)
    [found] = fit("prompt-gepa", ctx, replace(TRAIN.reversed(), prompts=("Always sail.",)), prompts=2)
    assert prompts([found])[0].prefix == "Talk of gardens.\n\n"


def test_gepa_without_a_judge_or_a_reading_says_so() -> None:
    with pytest.raises(BenchError, match="there is none"):
        fit("prompt-gepa", Context(Rewrites(["x"]), BUDGET))
    ctx = Context(Rewrites(["x"]), BUDGET, rate=lambda items: [Verdict(None, reason="unreadable") for _ in items])
    [found] = fit("prompt-gepa", ctx)
    assert found.note["unrated"] == found.note["rated_answers"]
    assert found.note["held_score"] == 0
