"""lm-eval's tasks in a run: asked under every method's picked setting, as `bench capability` asks them afterwards.

Invariant: what is measured stands in the `capability.json` beside a run, which stays as it is; what is there is not
measured again, and what cannot be measured costs no run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench import results
from bench.core.errors import THEIRS, StopRun, traced
from bench.measure.capability import Capability, Settings
from bench.results import effects
from bench.run.effects import DOCUMENTS
from bench.run.faults import fault
from bench.run.jobs import Job
from bench.run.plan import Plan
from bench.run.session import Progress


def settings(plan: Plan) -> Settings:
    """How they are asked: as chats, like all else in a run, so that a prompt stands where it stood."""
    include = Path(plan.options.include) if plan.options.include else None
    return Settings(plan.benchmarks, include, DOCUMENTS, chat=True)


def check(plan: Plan) -> None:
    """Raise UsageError for a task that lm-eval does not have, BenchError for one whose documents cannot be had."""
    if plan.benchmarks:
        _ = settings(plan).loaded


def measure(plan: Plan, jobs: Sequence[Job], tell: Callable[[str], None], progress: Progress) -> None:
    """Ask the plan's tasks of lm-eval under each finished job's picked settings."""
    asked = settings(plan)
    due = [job for job in jobs if job.path and job.status in ("complete", "cached")] if plan.benchmarks else []
    due = [job for job in due if job.status == "complete" or not _known(job, asked)]
    if not due:
        return
    from bench.backends.hf.backend import HFBackend

    lm = HFBackend(plan.model, plan.specs[0].dtype)
    with progress(f"ask {', '.join(asked.tasks)}", len(due)) as advance:
        for job in due:
            assert job.path
            try:
                Capability(results.read(job.path), tell=lambda line: None, lm=lm).lm_eval(asked)
            except (StopRun, OSError):  # the run's own: a full disk, say
                raise
            except THEIRS as error:
                why = fault(error, job.method)
                tell(f"what {job.spec.method} does to {', '.join(asked.tasks)} is not known: {why}")
                traced(error)
            advance(1)


def _known(job: Job, asked: Settings) -> bool:
    """Whether a run that was done before has been asked this."""
    assert job.path
    return effects.complete(results.read(job.path), asked.identity)
