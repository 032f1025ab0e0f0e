"""Fit, generate, judge, pick, test, score: what turns a plan into results.

Invariant: the same command again is the resume. Every finished fit, completion and rating is kept under
a key of what decides it, and settings are picked on the select split before a test answer is made. Which methods are
worked on together, and when, changes no result.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import results
from bench.backends.hosted.backend import OpenAIBackend
from bench.core.blame import blamed
from bench.core.content import digest
from bench.core.definitions import code_digest
from bench.core.errors import BenchError
from bench.core.escape import printable
from bench.core.interfaces import Bound, Context, Fitted
from bench.core.money import Ledger
from bench.core.paths import cache_root, mark_cache
from bench.core.registry import get
from bench.core.rows import Rows
from bench.core.steering import Steering
from bench.core.values import Advance, Completion, Concept, Example, Item, Sample, Train, Verdict
from bench.judges.judging import judged_by, rate
from bench.results.audit import CONTROLS
from bench.run.accounts import Account
from bench.run.answers import TOGETHER, Answers
from bench.run.beside import Beside
from bench.run.cluster import Fitting, Pool, pooled
from bench.run.engines import make_backend, make_prompter
from bench.run.fits import Packed
from bench.run.identity import code_of
from bench.run.jobs import Ask, Job, Said, ratings, record, row, tried
from bench.run.plan import Plan
from bench.run.pulse import Pulse
from bench.run.spending import looks, spend
from bench.run.steerings import Steerings
from bench.run.support import check_disk
from bench.run.task_contract import checked, examined, refuse, scored
from bench.run.trials import best, continued, fits as fits_of, repeated, repeats, request, ruled, trials
from bench.run.views import unanswered

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
        bounds = [spend(*own) + looks(*own, plan.looked) for own in parts]
        check_disk(sum(bound.generations + bound.ratings for bound in bounds), [folder] if folder else [])
        if any(bound.ratings for bound in bounds):
            plan.judge.check(ask=True)
        Session(plan, folder, progress, pulse).run(todo, lambda: early(jobs))
        gc.collect()  # its rows' indexes, fits and engine, which know each other
    return jobs


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
        self.answers = Answers(self.backend, Rows(root / "rows" / "generations" / shard), self.context)
        self.beside = Beside(plan, self.steerings, self.answers, self.judgements, self._stage, self._asks)
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
            kept = (self.answers.rows, self.evidence, self.steerings.units, self.steerings.views.keep)
            spent = [account.rows for account in self.accounts.values()]
            for rows in (*kept, self.judgements, self.spending, *spent):
                rows.close()

    def _work(self, jobs: list[Job], early: Callable[[], None]) -> None:
        uses_judge = self.task.rated or any(job.method.uses_judge for job in jobs)
        if jobs and self.task.kind == "steering" and uses_judge:
            judge = self.plan.specs[0].judge
            with self._stage("calibrate the judge", 1) as advance, blamed(f"judge {judge}", type(self.judge)):
                self.judge.prepare(self.backend, self.evidence, self.calibration)
                advance(1)
            examined(self.task, judge, self._rate_all)
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
            self.beside.watch([job for job in live if job.status == "todo"])
            self.beside.look([job for job in live if job.status == "todo"])
            self.beside.harm([job for job in live if job.status == "todo"])
        for job in jobs:
            if job.status == "todo":
                self._record(job)
            job.clear()

    def _record(self, job: Job) -> None:
        made: dict[str, Any] = {}
        with job.guarded("record"):
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
            with job.guarded("training data"):
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
                    with job.guarded("fit"):
                        packed = next(fitted)
                    if job.status == "failed":
                        return
                    fits.store(job.method, name, key, packed)
                    advance(1)
            with job.guarded("fit"):
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
                with job.guarded("training data"):
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
                with job.guarded("fit"):
                    raise error

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
                with job.guarded("steering"):
                    own = [ask for c in concepts for ask in self._asks(job, c, asked.get(c.id, ()), split, said)]
                due += own if job.status == "todo" else []
            with self._stage(f"generate ({split}{f', turn {turn}' if turn else ''})", len(due)) as advance:
                answered = self.answers.outputs(due, advance)
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
                with job.guarded("detect"):
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

    def _rate_all(self, items: Sequence[Item]) -> list[Verdict]:
        """For fits, which are kept: none may be made with ratings missing that a later run would get."""
        found = rate(self.judge, items, self.judgements, lambda steps: None)
        if lost := [verdict for verdict in found if verdict.transient]:
            raise BenchError(f"{len(lost)} of {len(found)} ratings went unanswered: {lost[0].reason}")
        return found
