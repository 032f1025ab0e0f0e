"""What the engine answers: each thing asked of it is kept under what decides it, and made once.

Invariant: an answer that is kept is read and not asked for again, of whichever method, command or process it was; what
cannot be answered fails the job that asked, and no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from bench.core.content import digest
from bench.core.errors import THEIRS, BenchError, StopRun
from bench.core.interfaces import Backend, Context
from bench.core.rows import Rows
from bench.core.values import Advance, Completion, Divergence, Request, TargetScore
from bench.run.jobs import Ask, Job
from bench.run.trials import drawn, kept_as, options

T = TypeVar("T")
TOGETHER = 2**14
"""Answers that are asked for, or read, together: enough to fill any engine's batches, and no more, so that memory holds
the answers of one method where one has many."""


@dataclass(frozen=True)
class Answers:
    """An engine, and what it answered."""

    backend: Backend
    rows: Rows
    """key -> answer, likelihood or divergence, of every command."""
    context: Context

    def outputs(self, asks: Sequence[Ask], advance: Advance) -> list[Completion | None]:
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
            self.rows.put(key, row)
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
            with ask.job.guarded("options"):
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
            with ask.job.guarded("choose"):
                texts = [answer.spoken or "" for answer in own]
                pick = chooser.pick(self.context, ask.sample, texts) if chooser else 0
                if not isinstance(pick, int | np.integer) or not 0 <= pick < len(own):
                    raise BenchError(f"its chooser picked {pick!r} of {len(own)} answers, which are numbered from 0")
                kept[-1] = replace(own[pick], tokens=sum(answer.tokens for answer in own))
        return kept

    def _generate(self, asks: Sequence[Ask], advance: Advance) -> list[Completion | None]:
        def fresh(i: int) -> None:
            asks[i].job.fresh += 1

        rows = self.complete([ask.request for ask in asks], [ask.job for ask in asks], advance, fresh)
        found: list[Completion | None] = []
        for ask, kept in zip(asks, rows, strict=True):
            ask.job.tokens += kept["tokens"] if kept else 0
            ask.job.answers += bool(kept)
            lists = {name: tuple(kept.get(name, ())) for name in ("positions_edited", "options")} if kept else {}
            found.append(Completion(**kept | lists) if kept else None)
        return found

    def complete(
        self, requests: Sequence[Request], owners: Sequence[Job | None], advance: Advance, fresh: Advance
    ) -> list[dict[str, Any] | None]:
        """The kept answer of each request; those not kept yet are made, and `fresh` told their places. None where its
        job (one of `owners`) failed."""
        keys = [self._key(request) for request in requests]
        wanted = self._wanted(keys)
        advance(len(requests) - len(wanted))

        def keep(key: str, place: int, completion: Completion) -> None:
            self.rows.put(key, dataclasses.asdict(completion))
            fresh(place)
            advance(1)

        self._fill(self.backend.generate, wanted, requests, owners, keep, advance)
        return self._kept(keys, owners)

    def divergences(self, requests: Sequence[Request], advance: Advance) -> list[Divergence]:
        """That of each request; those not kept yet are made."""
        keys = [digest("divergence", self._key(request), request.prompt, request.target) for request in requests]
        wanted = self._wanted(keys)
        advance(len(requests) - len(wanted))
        for names in self.rows.portions(wanted, advance, self.backend.whole):
            for i, found in self.backend.diverge([requests[wanted[name][0]] for name in names]):
                self.rows.put(names[i], dataclasses.asdict(found))
                advance(1)
            if any(name not in self.rows for name in names):
                raise BenchError(f"backend {self.backend.name} left plain answers unread")
        return [Divergence(**row) for row in self._kept(keys, [None] * len(keys))]

    def _kept(self, keys: Sequence[str], owners: Sequence[Job | None]) -> list[Any]:
        """The kept row of each key; None where its job failed before it was made."""
        rows = [self.rows.get(key) for key in keys]
        if any(row is None and _live(job) for row, job in zip(rows, owners, strict=True)):
            raise StopRun(f"rows in {self.rows.folder} were lost while they were used: run the command again")
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
            return dict(sorted((place, key) for place, key in first if place >= 0 and key not in self.rows))

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

        for names in self.rows.portions(due(wanted).values(), others, self.backend.whole):
            apart = False
            while todo := due(names):
                job = owners[next(iter(todo))]
                places = [place for place in todo if not apart or owners[place] is job]
                if (error := asked(places)) is None:
                    if any(todo[place] not in self.rows for place in places):
                        raise BenchError(f"backend {self.backend.name} left requests without an answer")
                elif job is None:
                    raise error
                elif any(owners[place] is not job for place in places):
                    apart = True
                else:
                    with job.guarded("generate"):
                        raise error

    def _wanted(self, keys: Sequence[str]) -> dict[str, list[int]]:
        """key -> the places that want it, of what is not kept yet."""
        found: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            if key in found or key not in self.rows:
                found.setdefault(key, []).append(place)
        return found

    def _key(self, request: Request) -> str:
        return kept_as(self.backend.fingerprint(), request)


def _live(job: Job | None) -> bool:
    """Whether an answer is still wanted by whoever asked: a job that has not failed, or the run itself."""
    return job is None or job.status == "todo"
