"""What is looked at beside the score: vectors as monitors, another concept, an order against one's own, plain answers.

Invariant: nothing of it decides a score or a pick. Where plain answers or an order against a concept fail in a method's
code, its run is recorded without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from bench.core.errors import THEIRS, StopRun, traced
from bench.core.interfaces import Bound, Monitored
from bench.core.rows import Rows
from bench.core.spoken import spoken
from bench.core.values import Advance, Completion, Concept, Item, Request, Sample
from bench.judges.judging import rate
from bench.run.answers import TOGETHER, Answers
from bench.run.damage import Damage, summed
from bench.run.faults import fault
from bench.run.jobs import Ask, Job, Said, ratings, row
from bench.run.monitor import reading
from bench.run.plan import Plan
from bench.run.specificity import concept_axis, contested, others, related
from bench.run.steerings import Steerings
from bench.run.trials import AGAIN, Trial, seed_of


@dataclass(frozen=True)
class Beside:
    """Looks at finished jobs of a plan, with what its session asks and rates by."""

    plan: Plan
    steerings: Steerings
    answers: Answers
    judgements: Rows
    stage: Callable[[str, int], AbstractContextManager[Advance]]
    asks: Callable[[Job, Concept, Sequence[Sample], str, Said], list[Ask]]
    """What is asked of a concept's samples on a split, under a job's settings."""

    def watch(self, jobs: list[Job]) -> None:
        """Set each vector's reading of the task's watched chats against what the bare model answers to them."""
        if not isinstance(self.plan.task, Monitored) or not jobs:
            return
        samples = [sample for concept in self.steerings.concepts for sample in self.plan.task.watched(concept)]
        requests = [
            Request(s.messages, None, self.plan.protocol.sampling, seed_of(s, self.plan.protocol)) for s in samples
        ]
        with self.stage("watch", len(samples)) as advance:
            answers = self.answers.complete(requests, [None] * len(requests), advance, lambda i: None)
            said = [spoken(answer["text"]) for answer in answers if answer]
            items = [Item("concept", s.concept, s.instruction, t) for s, t in zip(samples, said, strict=True) if t]
            rated = iter(rate(self.plan.judge, items, self.judgements, lambda steps: None))
            ratings = [next(rated).value if text else None for text in said]
        self.plan.judge.release()
        for job in jobs:
            with job.guarded("watch"):
                for concept in self.steerings.concepts:
                    own = [i for i, sample in enumerate(samples) if sample.concept == concept]
                    steering = job.fits[concept.id].candidates[job.picked[concept.id].candidate].steering
                    found = reading(
                        self.answers.context, steering, [samples[i] for i in own], [ratings[i] for i in own]
                    )
                    if found:
                        job.monitors[concept.id] = found

    def look(self, jobs: list[Job]) -> None:
        """Rate test answers for another concept, and answers to questions with an order against their own."""
        items: list[Item] = []
        owners: list[tuple[Job, str, dict[str, Any]]] = []
        if "related" in self.plan.looked:
            beside = others(self.plan.task)
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
        with self.stage("judge (beside the score)", len(items)) as advance:
            verdicts = rate(self.plan.judge, items, self.judgements, advance)
        self.plan.judge.release()
        for (job, name, answer), verdict in zip(owners, verdicts, strict=True):
            job.unanswered += verdict.transient
            if answer:
                job.adverse.append(answer | ratings({concept_axis(self.plan.task): verdict}))
            else:
                job.related[name] = verdict.value

    def _contested(self, jobs: Sequence[Job]) -> list[tuple[Ask, Completion]]:
        """Answers to the first test questions with an order against their concept, at the picked settings."""
        due: list[Ask] = []
        for job in jobs:
            own: list[Ask] = []
            with job.guarded("steering"):
                own = [
                    ask
                    for concept in self.steerings.concepts
                    for ask in self.asks(job, concept, contested(self.plan.task, concept), "test", Said())
                    if AGAIN not in ask.sample.id
                ]
            due += own if job.status == "todo" else []
        with self.stage("generate (adverse)", len(due)) as advance:
            answered = self.answers.outputs(due, advance)
        found = [(ask, out) for ask, out in zip(due, answered, strict=True) if out and ask.job.status == "todo"]
        for job in (job for job in jobs if job.status == "failed"):  # its score is as good as it is
            self.answers.context.log(f"bench: what is left of {job.method.name} under an adverse prompt: {job.reason}")
            job.status, job.reason = "todo", ""
        return found

    def harm(self, jobs: list[Job]) -> None:
        """Read plain answers under every setting that was tried. Where that cannot be read the run is as good as it is,
        and says so."""
        if not (self.plan.neutral_texts and jobs):
            return
        settings = [sum(map(len, job.select.values())) for job in jobs]
        with self.stage("read plain answers", len(self.plan.neutral_texts) * sum(settings)) as advance:
            for job in jobs:
                try:
                    job.damage = self._damage(job, advance)
                except (StopRun, OSError):  # the run's own: a full disk, say
                    raise
                except THEIRS as error:
                    why = fault(error, job.method)
                    self.answers.context.log(f"bench: what {job.method.name} does to plain answers is not known: {why}")
                    traced(error)

    def _damage(self, job: Job, advance: Advance) -> dict[str, dict[Trial, Damage]]:
        """concept -> setting -> what it does to plain answers. A candidate that keeps one of several answers, or rates
        options anew, has no one distribution to read."""
        texts, made = len(self.plan.neutral_texts), dict[str, dict[Trial, Damage]]()
        tried = [(concept, trial) for concept in self.steerings.concepts for trial in job.select.get(concept.id, {})]
        due = [(concept, trial) for concept, trial in tried if self._readable(job, concept, trial)]
        advance((len(tried) - len(due)) * texts)
        # What was read is summed, so that memory holds a part.
        step = len(due) if self.answers.backend.whole else TOGETHER // texts
        for begin in range(0, len(due), max(1, step)):
            part = due[begin : begin + max(1, step)]
            requests = [one for concept, trial in part for one in self._plainly(job, concept, trial)]
            found = self.answers.divergences(requests, advance)
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
