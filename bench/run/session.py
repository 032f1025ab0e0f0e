"""Fit, generate, judge, pick, test, score: what turns a plan into results.

Invariant: the same command again is the resume. Every finished fit, completion and rating is kept under
a key of what decides it, and settings are picked on the select split before a test answer is made. Which methods are
worked on together, and when, changes no result.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench import results
from bench.backends.hosted.backend import OpenAIBackend
from bench.core.blame import blamed
from bench.core.content import digest
from bench.core.definitions import code_digest
from bench.core.errors import THEIRS, BenchError, StopRun, traced
from bench.core.escape import printable
from bench.core.interfaces import Bound, Context, Fitted, Monitored
from bench.core.money import Ledger
from bench.core.paths import cache_root, mark_cache
from bench.core.registry import get
from bench.core.rows import Rows
from bench.core.spoken import spoken
from bench.core.steering import Steering
from bench.core.values import (
    Completion,
    Concept,
    Divergence,
    Example,
    Item,
    Request,
    Sample,
    TargetScore,
    Train,
    Verdict,
)
from bench.judges.judging import judged_by, rate
from bench.results.audit import CONTROLS
from bench.run.accounts import Account
from bench.run.cluster import Fitting, Pool, pooled
from bench.run.damage import Damage, summed
from bench.run.engines import make_backend, make_prompter
from bench.run.faults import fault
from bench.run.fits import Packed
from bench.run.identity import code_of
from bench.run.jobs import Ask, Job, Said, ratings, record, row, tried
from bench.run.monitor import reading
from bench.run.plan import Plan
from bench.run.pulse import Pulse
from bench.run.specificity import concept_axis, contested, others, related
from bench.run.spending import beside, spend
from bench.run.steerings import Steerings
from bench.run.support import check_disk
from bench.run.task_contract import checked, refuse, scored
from bench.run.trials import (
    AGAIN,
    Trial,
    best,
    continued,
    drawn,
    fits as fits_of,
    kept_as,
    options,
    repeated,
    repeats,
    request,
    ruled,
    seed_of,
    trials,
)
from bench.run.views import unanswered

T = TypeVar("T")
Advance = Callable[[int], None]
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""(stage, total) -> a context whose value is called with the steps done."""


@contextmanager
def silent(stage: str, total: int) -> Iterator[Advance]:
    yield lambda steps: None


def planned(plan: Plan, folder: Path | None = None) -> list[Job]:
    """A job per method: `cached` where its result is there, `unsupported` or `failed` with the reason, or `todo`."""
    engine = get("backend", plan.options.backend)
    jobs = [
        Job(spec, made, "" if wrong else code_of(made, type(plan.task), type(plan.judge), engine))
        for spec, made, wrong in zip(plan.specs, plan.methods, plan.faults, strict=True)
    ]
    reading = plan.reading if plan.neutral_texts else None
    for job, why, wrong in zip(jobs, plan.lacks, plan.faults, strict=True):
        if wrong:
            job.status, job.reason = "failed", wrong
        elif found := results.find(job.spec, job.code, folder, reading, plan.looked):
            job.status, job.path = "cached", found
        elif why:
            job.status, job.reason = "unsupported", why
    return jobs


def execute(
    plan: Plan,
    folder: Path | None = None,
    progress: Progress = silent,
    early: Callable[[list[Job]], None] = lambda jobs: None,
    pulse: Pulse | None = None,
) -> list[Job]:
    """Run what is not done yet; `folder` takes every result instead of results/ or the scratch folder.

    `pulse` says at any time what goes on inside a step of `progress`.

    Returns a job per method: `cached`, `complete`, `unsupported` (with the reason), or `failed`. What trains comes
    last; `early` is given the jobs as they stand after what a table rests on, and before what trains.
    """
    jobs = planned(plan, folder)
    todo = [job for job in jobs if job.status == "todo"]
    if todo:
        parts = [(job.method, plan.protocol, plan.task) for job in todo]
        bounds = [spend(*own) + beside(*own, plan.looked) for own in parts]
        check_disk(sum(bound.generations + bound.ratings for bound in bounds), [folder] if folder else [])
        if any(bound.ratings for bound in bounds):
            plan.judge.check(ask=True)
        Session(plan, folder, progress, pulse).run(todo, lambda: early(jobs))
        gc.collect()  # its rows' indexes, fits and engine, which know each other
    return jobs


TOGETHER = 2**14
"""Answers that methods are asked for together: enough to fill any engine's batches, and no more, so that memory holds
the answers of one method where one has many."""


SOON = 2**9
"""Answers of the first methods of many, so that there is a table within minutes."""
WRITTEN = ("generate", "answer plainly")
"""How the names of those stages begin of which each answer is a step."""


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr)


class Session:
    """One run over the jobs that are not done."""

    def __init__(self, plan: Plan, folder: Path | None, progress: Progress, pulse: Pulse | None = None) -> None:
        self.plan, self.folder, self.progress, self.pulse = plan, folder, progress, pulse or Pulse()
        self.task, self.judge, self.rules = plan.task, plan.judge, plan.protocol
        mark_cache()
        self.backend = make_backend(*(engine := (plan.options.backend, plan.model, plan.specs[0].dtype)), plan.purse)
        if plan.options.executor == "ray":
            self.backend = pooled(self.backend, engine, plan.options.ray_address, plan.options.workers, _tell)
        shard, root = self.backend.fingerprint(), cache_root()
        self.generations = Rows(root / "rows" / "generations" / shard)
        self.evidence = Rows(root / "rows" / "evidence" / digest(shard, code_digest(type(self.judge))))
        judged = judged_by(plan.specs[0].judge, self.judge, shard)
        self.judgements = Rows(root / "rows" / "judgements" / judged)
        self.spending = Rows(root / "rows" / "spending" / judged)
        self.ledger = Ledger(self.spending)
        self.judge.account(self.ledger.put)
        self.timings: dict[str, float] = {}
        self.part = ""
        """Which of several groups of methods is under way."""
        self.prompter = make_prompter(plan.options.prompter, plan.purse)
        self.accounts: dict[str, Account] = {}
        if self.prompter:
            self.accounts["prompting"] = Account(self.prompter, root, "prompter", plan.options.prompter)
        if isinstance(self.backend, OpenAIBackend):
            self.accounts["answering"] = Account(self.backend, root, "target", shard)
            self.backend.probe()  # before anything is fitted, and at its own cost
        self.context = Context(self.backend, self.rules.budget, self.rules.seed, self.prompter)
        self.context.rate = self._rate_all
        self.context.compat = self.rules.compat
        self.context.log = _tell
        self.steerings = Steerings(self.context, self.rules, self.task, root, judged)
        self.fits, self.concepts, self.trains = (getattr(self.steerings, n) for n in ("fits", "concepts", "trains"))
        for line in refuse(self.task, self.trains):
            self.context.log(line)

    def run(self, jobs: list[Job], early: Callable[[], None] = lambda: None) -> None:
        """Work through the jobs that are to do; `early` is called after the first group, and when only
        those that train are left."""
        try:
            with self.pulse.looking():
                self._work([job for job in jobs if job.status == "todo"], early)
        finally:
            self.judge.release()
            if isinstance(self.backend, Pool):
                self.backend.close()
            self.ledger.put(self.judge.usage())
            kept = (self.generations, self.evidence, self.steerings.units, self.steerings.views.keep)
            spent = [account.rows for account in self.accounts.values()]
            for rows in (*kept, self.judgements, self.spending, *spent):
                rows.close()

    def _work(self, jobs: list[Job], early: Callable[[], None]) -> None:
        uses_judge = self.task.rated or any(job.method.uses_judge for job in jobs)
        if jobs and self.task.kind == "steering" and uses_judge:
            who = f"judge {self.plan.specs[0].judge}"
            with self._stage("calibrate the judge", 1) as advance, blamed(who, type(self.judge)):
                self.judge.prepare(self.backend, self.evidence, self.calibration)
                advance(1)
        groups = self._groups(jobs)
        for number, group in enumerate(groups, 1):
            self.part = f"{number} of {len(groups)}, " if len(groups) > 1 else ""
            if number > 1 and not self._trains(groups[number - 2]) and (number == 2 or self._trains(group)):
                early()
            self._through(group)

    @property
    def calibration(self) -> list[Train]:
        """What the judge is calibrated on, within the budget of a fit."""
        return [train.limited(self.rules.budget.sequences) for train in self.task.calibration()]

    def _groups(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Jobs as they are worked on: what every table rests on and a few more, then others that train nothing, then
        those that train; at once as many as make `TOGETHER` answers. A judge that takes hours to answer is asked once
        about all."""
        if self.judge.whole:
            return [list(jobs)]
        found: list[list[Job]] = []
        costs = {id(job): spend(job.method, self.rules, self.task).generations for job in jobs}
        for trains in (False, True):
            own = [job for job in jobs if self._trains([job]) is trains]
            own.sort(key=lambda job: job.method.name not in CONTROLS["steering"])
            many = not trains and sum(costs[id(job)] for job in own) >= 4 * SOON
            size = room = 0
            for job in own:
                if size >= room:
                    size, room = 0, SOON if many and not found else TOGETHER
                    found.append([])
                found[-1].append(job)
                size += costs[id(job)]
        return found

    def _trains(self, jobs: Sequence[Job]) -> bool:
        return any(any(job.method.training(self.rules.budget)) for job in jobs)

    def _through(self, jobs: Sequence[Job]) -> None:
        """Take jobs through all stages; what they worked with goes when they are recorded."""
        if asked := unanswered(self.task, self.trains.values(), [job.method for job in jobs]):
            with self._stage("answer plainly, for pairs", len(asked)) as advance:
                self.steerings.views.answer([job.method for job in jobs], advance)
        due = [self._seeds(job) * len(self.concepts) for job in jobs]
        with self._stage("fit", sum(due)) as advance:
            if isinstance(self.backend, Pool):
                self._fit_there(jobs, self.backend, advance)
            for job in jobs:
                if job.status == "todo":
                    self._fit(job, advance)
        self.judge.release()
        self.context.shared.clear()  # memory that answers can use
        live = [job for job in jobs if job.status == "todo"]
        if self.task.kind == "detector":
            self._detect(live)
        else:
            self._answer(live, "select")
            live = [job for job in live if job.status == "todo"]
            for job in live:
                job.picked = {concept: best(trials, self.rules) for concept, trials in job.select.items()}
            self._answer(live, "test")
            self._watch([job for job in live if job.status == "todo"])
            self._look([job for job in live if job.status == "todo"])
            self._harm([job for job in live if job.status == "todo"])
        for job in jobs:
            if job.status == "todo":
                self._record(job)
            job.clear()

    def _record(self, job: Job) -> None:
        made: dict[str, Any] = {}
        with self._guard(job, "record"):
            made = record(job, self.plan, self.steerings.strength, self.timings) | self._judging()
            if views := self.steerings.views.made(job.method):
                made["views"] = views
            if found := self.backend.findings():
                made["probe"] = dict(found)
            if isinstance(self.backend, Pool):
                made["executor"] = self.backend.executor()
            json.dumps(made, allow_nan=False)  # what a plug-in put there may be no JSON
        if job.status != "failed":
            job.path = results.write(made, job.spec, self.folder, job.tried)
            job.status = "complete"

    def _judging(self) -> dict[str, Any]:
        """What asking the judge and other hosted models took, now and in earlier commands; for all methods."""
        now = self.judge.usage()
        self.ledger.put(now)
        ever = self.ledger.ever()
        found = {"judging": {"now": now, "ever": ever}} if ever else {}
        return found | {name: spent for name, account in self.accounts.items() if (spent := account.spent())}

    @contextmanager
    def _stage(self, name: str, total: int) -> Iterator[Advance]:
        begun = time.monotonic()
        self.pulse.begin(own=name.startswith(WRITTEN))
        with self.progress(self.part + name, total) as advance:
            yield advance
        self.timings[name] = round(self.timings.get(name, 0.0) + time.monotonic() - begun, 2)

    def _seeds(self, job: Job) -> int:
        """How many fits of a concept a job needs; a detector is scored once."""
        return 1 if self.task.kind == "detector" else fits_of(job.method, self.rules)

    def _fit(self, job: Job, advance: Advance) -> None:
        for fits in self.steerings.by_seed[: self._seeds(job)]:
            todo: dict[str, str] = {}
            with self._guard(job, "training data"):
                todo = fits.missing(job.method, job.spec.prompter)
            if job.status == "failed":
                return
            concept = {key: name for name, key in todo.items()}
            done = len(self.concepts) - len(concept)
            counted = min(done, job.fitted_there)
            job.fitted_there -= counted
            advance(done - counted)
            for keys in fits.artefacts.portions(concept, advance):
                fitted = fits.fit(job.method, [concept[key] for key in keys])
                for key in keys:
                    packed, name = Packed(), concept[key]
                    with self._guard(job, "fit"):
                        packed = next(fitted)
                    if job.status == "failed":
                        return
                    fits.store(job.method, name, key, packed)
                    advance(1)
            with self._guard(job, "fit"):
                job.by_seed.append(fits.load(job.method, job.spec.prompter))
            if job.status == "failed":
                return

    def _fit_there(self, jobs: Sequence[Job], pool: Pool, advance: Advance) -> None:
        """Have the workers fit what is missing, all methods at once, and store each fit as it comes.

        What asks the judge or the prompter, who are paid from here, is left to `_fit`, as is what other processes have
        claimed.
        """
        due: list[Fitting] = []
        for job in jobs:
            parts = job.method.family_tree
            if any(part.uses_judge or (part.uses_prompter and self.prompter) for part in parts):
                continue
            for fits in self.steerings.by_seed[: self._seeds(job)]:
                todo: dict[str, str] = {}
                with self._guard(job, "training data"):
                    todo = fits.missing(job.method, job.spec.prompter)
                    trains = fits.trains_of(job.method)
                free = [name for name, key in todo.items() if fits.claimed(key)]
                for names in pool.portions(free):
                    own = trains if job.method.needs_all_concepts else {name: trains[name] for name in names}
                    due.append(Fitting(job.method, own, names, fits.rules, (job, fits, todo)))
        for fitting, packed, error in pool.fit(due, lambda fitting: fitting.owner[0].status == "todo"):
            job, fits, keys = fitting.owner
            for name, one in zip(fitting.names, packed, strict=False):  # fewer where an error came between
                fits.store(job.method, name, keys[name], one)
                job.fitted_there += 1
                advance(1)
            fits.artefacts.claims.drop(keys[name] for name in fitting.names)
            if error:
                with self._guard(job, "fit"):
                    raise error

    @contextmanager
    def _guard(self, job: Job, stage: str) -> Iterator[None]:
        """A method is third-party code: its failure is its own and must not end the others.

        Nothing is written inside this context.
        """
        try:
            yield
        except StopRun:
            raise
        except THEIRS as error:
            job.status, job.reason = "failed", f"{stage}: {fault(error, job.method)}"
            traced(error)

    def _answer(self, jobs: list[Job], split: str) -> None:
        """Generate and rate all samples of one split under every job's settings.

        Concepts are asked about as many at once as make `TOGETHER` answers, since memory holds what asks and answers;
        by a judge or an engine that takes hours to answer, all at once.
        """
        group, every = self.part, list(self.concepts)
        answers = sum(spend(job.method, self.rules, self.task).generations for job in jobs)
        whole = self.judge.whole or self.backend.whole or answers <= TOGETHER
        step = max(1, len(every) if whole else TOGETHER * len(every) // answers)
        for begin in range(0, len(every), step):
            part = every[begin : begin + step]
            if len(part) < len(every):
                self.part = f"{group}concepts {begin + 1} to {begin + len(part)} of {len(every)}, "
            self._answer_on(jobs, split, part)
        self.part = group

    def _answer_on(self, jobs: Sequence[Job], split: str, concepts: Sequence[Concept]) -> None:
        """The samples of some concepts, as one flat call."""
        asks: list[Ask] = []
        outputs: list[Completion | None] = []
        said, turns = Said(), self._turns(split, concepts)
        for turn, asked in turns.items():
            due: list[Ask] = []
            for job in (one for one in jobs if one.status == "todo"):
                own: list[Ask] = []
                with self._guard(job, "steering"):
                    own = [ask for c in concepts for ask in self._asks(job, c, asked.get(c.id, ()), split, said)]
                due += own if job.status == "todo" else []
            with self._stage(f"generate ({split}{f', turn {turn}' if turn else ''})", len(due)) as advance:
                answered = self._outputs(due, advance)
            if len(turns) > 1:
                said.add(due, answered)
            outputs += answered
            asks += due

        def rated(items: Sequence[Item]) -> list[Verdict]:
            with self._stage(f"judge ({split})", len(items)) as advance:
                return rate(self.judge, items, self.judgements, advance)

        done = [(ask, out) for ask, out in zip(asks, outputs, strict=True) if out and ask.job.status == "todo"]
        verdicts = scored(self.task, [ask.sample for ask, _ in done], [output for _, output in done], rated)
        self.judge.release()
        for (ask, output), found in zip(done, verdicts, strict=True):
            job, name = ask.job, ask.sample.concept.id
            job.count(verdict for axis, verdict in found.items() if axis != "overall")
            if split == "select":
                job.select.setdefault(name, {}).setdefault(ask.trial, []).append(ruled(found, self.rules))
                if ask.sample.kind == "generate":
                    job.tried.append(tried(ask, output, ruled(found, self.rules)))
            else:
                job.tested.setdefault(name, []).append(ruled(found, self.rules))
                job.rows.append(row(ask, output, ruled(found, self.rules)))

    def _turns(self, split: str, concepts: Sequence[Concept]) -> dict[int, dict[str, list[Sample]]]:
        """turn -> concept -> what is asked in it on a split, in order; turn 0 alone where questions stand by
        themselves."""
        found: dict[int, dict[str, list[Sample]]] = {}
        for concept in concepts:
            for sample in self.task.test(concept) if split == "test" else self.task.select(concept):
                found.setdefault(sample.turn, {}).setdefault(concept.id, []).append(sample)
        return dict(sorted(found.items()))

    def _detect(self, jobs: list[Job]) -> None:
        """Score every text of the test split with each job's detector, in place of a judge."""
        samples = {c.id: list(self.task.test(c)) for c in self.concepts}
        with self._stage("detect", len(jobs) * sum(map(len, samples.values()))) as advance:
            for job in jobs:
                with self._guard(job, "detect"):
                    if any(len(fit.candidates) > 1 for fit in job.fits.values()):
                        raise BenchError("several candidates, and no select split to pick from: name one layer")
                    for name, own in samples.items():
                        begun = time.monotonic()
                        verdicts, scores = self._scores(job.fits[name].candidates[0], own)
                        job.tested[name] = verdicts
                        job.rows += [
                            {"id": s.id, "concept": name, "label": s.label, "score": round(score, 6)} | ratings(found)
                            for s, score, found in zip(own, scores, verdicts, strict=True)
                        ]
                        job.seconds[name] = round(time.monotonic() - begun, 3)
                        advance(len(own))

    def _watch(self, jobs: list[Job]) -> None:
        """Set each vector's reading of the task's watched chats against what the bare model answers to them."""
        if not isinstance(self.task, Monitored) or not jobs:
            return
        samples = [sample for concept in self.concepts for sample in self.task.watched(concept)]
        requests = [Request(s.messages, None, self.rules.sampling, seed_of(s, self.rules)) for s in samples]
        with self._stage("watch", len(samples)) as advance:
            answers = self._complete(requests, [None] * len(requests), advance, lambda i: None)
            said = [spoken(answer["text"]) for answer in answers if answer]
            items = [Item("concept", s.concept, s.instruction, t) for s, t in zip(samples, said, strict=True) if t]
            rated = iter(rate(self.judge, items, self.judgements, lambda steps: None))
            ratings = [next(rated).value if text else None for text in said]
        self.judge.release()
        for job in jobs:
            with self._guard(job, "watch"):
                for concept in self.concepts:
                    own = [i for i, sample in enumerate(samples) if sample.concept == concept]
                    steering = job.fits[concept.id].candidates[job.picked[concept.id].candidate].steering
                    found = reading(self.context, steering, [samples[i] for i in own], [ratings[i] for i in own])
                    if found:
                        job.monitors[concept.id] = found

    def _look(self, jobs: list[Job]) -> None:
        """Rate test answers for another concept, and answers to questions with an order against their own."""
        items: list[Item] = []
        owners: list[tuple[Job, str, dict[str, Any]]] = []
        if "related" in self.plan.looked:
            beside = others(self.task)
            for job in jobs:
                for name, item in related(job.rows, beside).items():
                    items.append(item)
                    owners.append((job, name, {}))
        if "adverse" in self.plan.looked:
            for ask, output in self._contested(jobs):
                found = row(ask, output, {})
                if output.spoken is not None:
                    items.append(Item("concept", ask.sample.concept, ask.sample.question, output.spoken))
                    owners.append((ask.job, ask.sample.id, found))
        if not items:
            return
        with self._stage("judge (beside the score)", len(items)) as advance:
            verdicts = rate(self.judge, items, self.judgements, advance)
        self.judge.release()
        for (job, name, answer), verdict in zip(owners, verdicts, strict=True):
            job.unanswered += verdict.transient
            if answer:
                job.adverse.append(answer | ratings({concept_axis(self.task): verdict}))
            else:
                job.related[name] = verdict.value

    def _contested(self, jobs: Sequence[Job]) -> list[tuple[Ask, Completion]]:
        """Answers to the first test questions with an order against their concept, at the picked settings."""
        due: list[Ask] = []
        for job in jobs:
            own: list[Ask] = []
            with self._guard(job, "steering"):
                own = [
                    ask
                    for concept in self.concepts
                    for ask in self._asks(job, concept, contested(self.task, concept), "test", Said())
                    if AGAIN not in ask.sample.id
                ]
            due += own if job.status == "todo" else []
        with self._stage("generate (adverse)", len(due)) as advance:
            answered = self._outputs(due, advance)
        found = [(ask, out) for ask, out in zip(due, answered, strict=True) if out and ask.job.status == "todo"]
        for job in (job for job in jobs if job.status == "failed"):  # its score is as good as it is
            self.context.log(f"bench: what is left of {job.method.name} under an adverse prompt: {job.reason}")
            job.status, job.reason = "todo", ""
        return found

    def _harm(self, jobs: list[Job]) -> None:
        """Read plain answers under every setting that was tried. Where that cannot be read the run is as good as it is,
        and says so."""
        if not (self.plan.neutral_texts and jobs):
            return
        settings = [sum(map(len, job.select.values())) for job in jobs]
        with self._stage("read plain answers", len(self.plan.neutral_texts) * sum(settings)) as advance:
            for job in jobs:
                try:
                    job.damage = self._damage(job, advance)
                except (StopRun, OSError):  # the run's own: a full disk, say
                    raise
                except THEIRS as error:
                    why = fault(error, job.method)
                    self.context.log(f"bench: what {job.method.name} does to plain answers is not known: {why}")
                    traced(error)

    def _damage(self, job: Job, advance: Advance) -> dict[str, dict[Trial, Damage]]:
        """concept -> setting -> what it does to plain answers. A candidate that keeps one of several answers, or rates
        options anew, has no one distribution to read."""
        texts, made = len(self.plan.neutral_texts), dict[str, dict[Trial, Damage]]()
        tried = [(concept, trial) for concept in self.concepts for trial in job.select.get(concept.id, {})]
        due = [(concept, trial) for concept, trial in tried if self._readable(job, concept, trial)]
        advance((len(tried) - len(due)) * texts)
        # What was read is summed, so that memory holds a part.
        step = len(due) if self.backend.whole else TOGETHER // texts
        for begin in range(0, len(due), max(1, step)):
            part = due[begin : begin + max(1, step)]
            requests = [one for concept, trial in part for one in self._plainly(job, concept, trial)]
            found = self._divergences(requests, advance)
            for at, (concept, trial) in enumerate(part):
                made.setdefault(concept.id, {})[trial] = summed(found[at * texts : (at + 1) * texts])
        return made

    def _readable(self, job: Job, concept: Concept, trial: Trial) -> bool:
        candidate = job.fits[concept.id].candidates[trial.candidate]
        return not (candidate.chooser or candidate.rater)

    def _plainly(self, job: Job, concept: Concept, trial: Trial) -> Iterator[Request]:
        """Each plain answer under a setting."""
        candidate, steering = job.fits[concept.id].candidates[trial.candidate], None
        for text in self.plan.neutral_texts:
            chat = (("user", text.instruction),)
            if steering is None or isinstance(candidate.steering, Bound):
                steering = self.steerings.of(job.method, concept, candidate, trial.coefficient, chat)
            yield Request(chat, steering, target=text.response)

    def _divergences(self, requests: Sequence[Request], advance: Advance) -> list[Divergence]:
        """That of each request; those not kept yet are made."""
        keys = [digest("divergence", self._key(request), request.prompt, request.target) for request in requests]
        wanted = self._wanted(keys)
        advance(len(requests) - len(wanted))
        for names in self.generations.portions(wanted, advance, self.backend.whole):
            for i, found in self.backend.diverge([requests[wanted[name][0]] for name in names]):
                self.generations.put(names[i], dataclasses.asdict(found))
                advance(1)
            if any(name not in self.generations for name in names):
                raise BenchError(f"backend {self.backend.name} left plain answers unread")
        return [Divergence(**row) for row in self._kept(keys, [None] * len(keys))]

    def _scores(self, candidate: Fitted, samples: Sequence[Sample]) -> tuple[list[dict[str, Verdict]], list[float]]:
        texts = [Completion(sample.messages[-1][1], 0, 0) for sample in samples]
        kept: list[float] = []

        def rate(items: Sequence[Item]) -> list[Verdict]:
            assert candidate.detector is not None
            found = np.asarray(candidate.detector.score(self.context, [Example(i.instruction, i.text) for i in items]))
            if found.shape != (len(items),) or not np.isfinite(found).all():
                raise BenchError(f"its detector gives shape {found.shape} for {len(items)} texts, or no finite scores")
            kept.extend(float(value) for value in found)
            return [Verdict(value) for value in kept]

        return checked(self.task, samples, texts, rate), kept

    def _asks(self, job: Job, concept: Concept, samples: Sequence[Sample], split: str, said: Said) -> list[Ask]:
        """Samples of a concept on a split under every setting tried, or the picked one."""
        candidates = job.fits[concept.id].candidates
        test = split == "test"
        found = []
        for trial in [job.picked[concept.id]] if test else trials(candidates, self.rules):
            made: dict[Any, Steering] = {}  # one for all that is asked, but where it is bound to each prompt
            for i, sample in enumerate(samples):
                for k in range(repeats(job.method, sample, self.rules) if test else 1):
                    candidate = job.fit(concept.id, i + k if test else 0).candidates[trial.candidate]
                    again = repeated(sample, k)
                    if again.follows:
                        again = continued(again, said.chat(job, trial, again.follows))
                    place = (id(candidate), again.messages if isinstance(candidate.steering, Bound) else ())
                    if place not in made:
                        made[place] = self.steerings.of(
                            job.method, concept, candidate, trial.coefficient, again.messages
                        )
                    found.append(Ask(job, trial, again, request(again, made[place], self.rules)))
        return found

    def _outputs(self, asks: Sequence[Ask], advance: Advance) -> list[Completion | None]:
        """One output per ask: an answer, or the likelihoods of its options; None for one whose job failed."""
        chosen = [ask.sample.kind == "choices" for ask in asks]
        written = iter(self._answers([ask for ask, choice in zip(asks, chosen, strict=True) if not choice], advance))
        scored = iter(self._options([ask for ask, choice in zip(asks, chosen, strict=True) if choice], advance))
        return [next(scored if choice else written) for choice in chosen]

    def _options(self, asks: Sequence[Ask], advance: Advance) -> list[Completion | None]:
        """The log-probability of every option of every ask; each is kept on its own."""
        requests = [(option, ask.job) for ask in asks for option in options(ask.sample, ask.request)]
        keys = [digest("option", self._key(request), request.target) for request, _ in requests]
        wanted = self._wanted(keys)
        due = len(wanted)
        left = [len(asks) * n // max(1, len(keys)) for n in range(due, -1, -1)]  # asks not done, by options done
        advance(len(asks) - left[0])
        done = 0

        def scored(options: int) -> None:
            nonlocal done
            advance(left[done] - left[done + options])
            done += options

        def keep(key: str, place: int, score: TargetScore) -> None:
            row = {"total": round(score.total, 5), "positions_edited": list(score.positions_edited)}
            self.generations.put(key, row)
            requests[place][1].fresh += 1
            scored(1)

        owners = [job for _, job in requests]
        self._fill(self.backend.logprobs, wanted, [one for one, _ in requests], owners, keep, scored)
        found = iter(self._kept(keys, owners))
        outputs: list[Completion | None] = []
        for ask in asks:
            rows = [next(found) for _ in ask.sample.options]
            outputs.append(None)
            if ask.job.status != "todo":
                continue
            with self._guard(ask.job, "options"):
                totals = tuple(row["total"] for row in rows)
                rater = ask.job.fits[ask.sample.concept.id].candidates[ask.trial.candidate].rater
                totals = tuple(rater.rate(ask.sample.options, totals)) if rater else totals
                if len(totals) != len(rows) or not np.isfinite(totals).all():
                    raise BenchError(f"{len(totals)} ratings of {len(rows)} options, or one that is not finite")
                ask.job.answers += len(rows)
                best = max(range(len(rows)), key=totals.__getitem__)
                positions_edited = tuple(rows[best]["positions_edited"])
                outputs[-1] = Completion(ask.sample.options[best], 0, 0, positions_edited, options=totals)
        return outputs

    def _answers(self, asks: Sequence[Ask], advance: Advance) -> list[Completion | None]:
        """One answer per ask; where a chooser draws several, the one it keeps, with the tokens of all."""
        choosers = [ask.job.fits[ask.sample.concept.id].candidates[ask.trial.candidate].chooser for ask in asks]
        several = [
            replace(ask, request=one)
            for ask, chooser in zip(asks, choosers, strict=True)
            for one in drawn(ask.request, chooser.n if chooser else 1)
        ]
        advance(len(asks) - len(several))
        answers = iter(self._generate(several, advance))
        kept: list[Completion | None] = []
        for ask, chooser in zip(asks, choosers, strict=True):
            own = [answer for _ in range(chooser.n if chooser else 1) if (answer := next(answers))]
            kept.append(None)
            if ask.job.status != "todo":
                continue
            with self._guard(ask.job, "choose"):
                texts = [answer.spoken or "" for answer in own]
                pick = chooser.pick(self.context, ask.sample, texts) if chooser else 0
                if not isinstance(pick, int | np.integer) or not 0 <= pick < len(own):
                    raise BenchError(f"its chooser picked {pick!r} of {len(own)} answers, which are numbered from 0")
                kept[-1] = replace(own[pick], tokens=sum(answer.tokens for answer in own))
        return kept

    def _generate(self, asks: Sequence[Ask], advance: Advance) -> list[Completion | None]:
        def fresh(i: int) -> None:
            asks[i].job.fresh += 1

        rows = self._complete([ask.request for ask in asks], [ask.job for ask in asks], advance, fresh)
        found: list[Completion | None] = []
        for ask, kept in zip(asks, rows, strict=True):
            ask.job.tokens += kept["tokens"] if kept else 0
            ask.job.answers += bool(kept)
            lists = {name: tuple(kept.get(name, ())) for name in ("positions_edited", "options")} if kept else {}
            found.append(Completion(**kept | lists) if kept else None)
        return found

    def _complete(
        self, requests: Sequence[Request], owners: Sequence[Job | None], advance: Advance, fresh: Advance
    ) -> list[dict[str, Any] | None]:
        """The kept answer of each request; those not kept yet are made, and `fresh` told their places. None where its
        job (one of `owners`) failed."""
        keys = [self._key(request) for request in requests]
        wanted = self._wanted(keys)
        advance(len(requests) - len(wanted))

        def keep(key: str, place: int, completion: Completion) -> None:
            self.generations.put(key, dataclasses.asdict(completion))
            fresh(place)
            advance(1)

        self._fill(self.backend.generate, wanted, requests, owners, keep, advance)
        return self._kept(keys, owners)

    def _kept(self, keys: Sequence[str], owners: Sequence[Job | None]) -> list[Any]:
        """The kept row of each key; None where its job failed before it was made."""
        rows = [self.generations.get(key) for key in keys]
        if any(row is None and _live(job) for row, job in zip(rows, owners, strict=True)):
            raise StopRun(f"rows in {self.generations.folder} were lost while they were used: run the command again")
        return rows

    def _fill(
        self,
        call: Callable[[Sequence[Request]], Iterator[tuple[int, T]]],
        wanted: Mapping[str, Sequence[int]],
        requests: Sequence[Request],
        owners: Sequence[Job | None],
        keep: Callable[[str, int, T], None],
        others: Advance,
    ) -> None:
        """Have the engine answer what is not kept yet (`wanted`: key -> its places in `requests`), each key once and in
        calls as large as the work that is shared with other processes allows; `others` is told how many those made.

        Where a call raises, what is left of it is asked job by job (`owners`): a request that cannot be answered fails
        its own job, and one that is nobody's ends the run.
        """

        def due(names: Iterable[str]) -> dict[int, str]:
            """place -> key of those that are not kept and belong to a job that has not failed, in order."""
            first = ((next((place for place in wanted[name] if _live(owners[place])), -1), name) for name in names)
            return dict(sorted((place, key) for place, key in first if place >= 0 and key not in self.generations))

        def asked(places: Sequence[int]) -> BaseException | None:
            """What ended the call, where anything did."""
            answers = call([requests[place] for place in places])
            while True:
                try:
                    i, found = next(answers)
                except StopIteration:
                    return None
                except StopRun:
                    raise
                except THEIRS as error:  # an engine runs a method's edits: its failure may be the method's
                    return error
                keep(todo[places[i]], places[i], found)  # unguarded: a full disk is no fault of a method

        for names in self.generations.portions(due(wanted).values(), others, self.backend.whole):
            apart = False
            while todo := due(names):
                job = owners[next(iter(todo))]
                places = [place for place in todo if not apart or owners[place] is job]
                if (error := asked(places)) is None:
                    if any(todo[place] not in self.generations for place in places):
                        raise BenchError(f"backend {self.backend.name} left requests without an answer")
                elif job is None:
                    raise error
                elif any(owners[place] is not job for place in places):
                    apart = True
                else:
                    with self._guard(job, "generate"):
                        raise error

    def _wanted(self, keys: Sequence[str]) -> dict[str, list[int]]:
        """key -> the places that want it, of what is not kept yet."""
        found: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            if key in found or key not in self.generations:
                found.setdefault(key, []).append(place)
        return found

    def _key(self, request: Request) -> str:
        return kept_as(self.backend.fingerprint(), request)

    def _rate_all(self, items: Sequence[Item]) -> list[Verdict]:
        """For fits, which are kept: none may be made with ratings missing that a later run would get."""
        found = rate(self.judge, items, self.judgements, lambda steps: None)
        if lost := [verdict for verdict in found if verdict.transient]:
            raise BenchError(f"{len(lost)} of {len(found)} ratings went unanswered: {lost[0].reason}")
        return found


def _live(job: Job | None) -> bool:
    """Whether an answer is still wanted by whoever asked: a job that has not failed, or the run itself."""
    return job is None or job.status == "todo"
