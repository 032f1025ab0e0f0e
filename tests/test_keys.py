"""Keys: all that decides a result is in its key. `benchmarks/faults/keys.py` tries more of the same."""

from __future__ import annotations

import json
import os
import random
import sys
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from bench.backends import tiny
from bench.backends.models import resolve
from bench.core import registry
from bench.core.definitions import OWN, closure
from bench.core.protocol import protocol
from bench.core.rows import Rows
from bench.run.faults import definitions
from bench.run.identity import RULES
from bench.run.plan import Options, make
from bench.run.session import execute
from benchmarks.faults import keys

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.build(folder)
    return folder


def test_every_field_that_can_change_an_answer_changes_its_key() -> None:
    count = keys.answers()
    assert count.tried > 150
    assert count.wrong == 0


def test_every_field_of_a_method_and_of_what_it_learns_from_changes_its_fit(capsys: pytest.CaptureFixture[str]) -> None:
    count = keys.methods()
    assert count.tried > 500
    assert count.wrong == 0, capsys.readouterr().err


def test_every_field_of_a_judge_changes_its_ratings_but_those_of_the_host(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, host = keys.judges(model)
    assert own.tried > 30
    assert host.tried > 8
    assert own.wrong == host.wrong == 0, capsys.readouterr().err


def test_a_definition_that_a_key_reaches_cannot_change_unseen(capsys: pytest.CaptureFixture[str]) -> None:
    said, far, still = keys.code(0.003, random.Random(0))
    assert said.tried > 30
    assert still.tried > 60
    assert said.wrong == far.wrong == still.wrong == 0, capsys.readouterr().err


def test_a_bit_of_any_file_that_a_model_is_made_of_changes_its_digest(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its size and its time kept, and the rest as it was: documents may change, and folders move."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    read, told = keys.folders(model, tmp_path)
    assert read.tried > 30
    assert told.tried > 15
    assert read.wrong == told.wrong == 0


def test_a_large_file_of_equal_size_and_time_is_another_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum is remembered: written over in place, and put in its stead."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("bench.backends.models.REMEMBERED", 1)
    folder = tmp_path / "model"
    folder.symlink_to(model)
    weights = model / "model.safetensors"
    was, found = weights.read_bytes(), [resolve(str(folder)).weights]
    for flipped in (bytes([was[-1] ^ 1]), bytes([was[-1] ^ 2])):
        weights.write_bytes(was[:-1] + flipped)
        os.utime(weights, ns=(0, 0))
        found.append(resolve(str(folder)).weights)
    (model / "new").write_bytes(was[:-1] + bytes([was[-1] ^ 4]))
    os.utime(model / "new", ns=(0, 0))
    (model / "new").replace(weights)
    found.append(resolve(str(folder)).weights)
    weights.write_bytes(was)
    assert len(set(found)) == 4
    assert resolve(str(folder)).weights == found[0]
    assert len(Rows(tmp_path / "cache" / "rows" / "checksums")) > 4


def test_a_number_beside_a_plugin_is_in_the_plugin_s_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = keys.helpers(tmp_path)
    assert count.tried == 13
    assert count.wrong == 0, capsys.readouterr().err


def test_what_is_installed_is_no_part_of_a_plugin_s_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the environment lies below the plugin's own folder."""
    site = tmp_path / ".venv" / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "foreign_maths.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "plug_me.py").write_text(
        "import json\nfrom foreign_maths import add\n\ndef f():\n    return json.dumps(add(1, 2))\n"
    )
    monkeypatch.syspath_prepend(str(site))
    module = registry.load_plugin(tmp_path / "plug_me.py")
    assert {name for _, name in closure([module.f])} == {"f"}


def test_options_in_another_order_are_other_data(questions: Path) -> None:
    """Without a best incorrect answer the first false one stands for it."""
    rows = json.loads((questions / "mc_task.json").read_text("utf-8"))

    def digest() -> str:
        task: Any = registry.build("task", "truthfulqa", {"data": str(questions)}, protocol=protocol("quick"))
        return str(task.digest)

    before = digest()
    rows[0]["mc1_targets"] = dict(reversed(rows[0]["mc1_targets"].items()))
    (questions / "mc_task.json").write_text(json.dumps(rows), "utf-8")
    assert digest() != before


# What ran


UNKEYED = {
    "bench.backends.devices": "finds devices",
    "bench.core.blame": "says what failed",
    "bench.core.claims": "says who makes what",
    "bench.backends.threads": "changes speed alone",
    "bench.backends.models": "finds a model, whose content is in the key",
    "bench.backends.vllm.pulse": "looks on",
    "bench.core.content": "digests",
    "bench.core.definitions": "digests",
    "bench.core.errors": "says what failed",
    "bench.core.index": "finds rows",
    "bench.core.interfaces": "digests",
    "bench.core.money": "counts what was paid",
    "bench.core.paths": "finds folders",
    "bench.core.protocol": "names runs",
    "bench.core.registry": "finds classes",
    "bench.core.rows": "stores",
    "bench.core.shipped": "finds folders",
    "bench.core.store": "stores",
    "bench.data.neutral": "the digest of its texts stands in the record",
    "bench.data.layout": "compares texts, to refuse",
    "bench.judges.judging": "digests",
    "bench.results.hypotheses": "writes down what was registered",
    "bench.results.provenance": "writes down the machine",
    "bench.results.runs": "writes; what it sums up is computed again from the samples",
    "bench.run.damage": "decides no setting; its digest stands beside what it sums up",
    "bench.run.engines": "makes engines",
    "bench.run.faults": "says what failed",
    "bench.run.effects": "names what stands beside the score",
    "bench.run.fits": "keeps fits",
    "bench.run.identity": "digests",
    "bench.run.jobs": "counts, and writes down",
    "bench.run.plan": "plans",
    "bench.run.pulse": "looks on",
    "bench.run.answers": "asks the engine, and keeps what it answers",
    "bench.run.beside": "looks at finished runs, and decides no score",
    "bench.run.session": "asks, keeps, and hands on",
    "bench.run.specificity": "decides no setting and no score; its digest stands beside what it gave",
    "bench.run.spending": "plans",
    "bench.run.steering_contract": "refuses",
    "bench.run.steerings": "hands on",
    "bench.run.support": "refuses",
    "bench.run.task_contract": "refuses",
    "bench.run.trials": "digests",
    "bench.stats.intervals": "computed again from the samples",
    "bench.training.changes.build": "finds classes, each of which is in the key of what names it",
    "bench.training.objectives.all": "finds classes, each of which is in the key of what names it",
    "bench.training.parametrisations": "finds classes, each of which is in the key of what names it",
}
"""Modules of which definitions run that no key covers, and why they decide no number."""


@pytest.mark.slow
def test_every_function_that_runs_is_in_a_key_or_decides_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    params = {"protocol.budget.tokens": 400, "protocol.sampling.max_new_tokens": 4}
    options = Options(
        ("diffmean", "lora", "prompt", "none"), model=str(model), judge="likelihood", dtype="float32", limit=1,
        params=params,
    )  # fmt: skip
    plan = make(options)
    ran: dict[str, set[str]] = defaultdict(set)
    known: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code not in known:
            known[code] = None
            path = Path(code.co_filename)
            parts = path.relative_to(ROOT).with_suffix("").parts if path.is_relative_to(ROOT) else ("",)
            if parts[0] in OWN and code.co_flags & 1 and not code.co_qualname.startswith("<"):  # a function
                ran[".".join(parts).removesuffix(".__init__")].add(code.co_qualname.split(".")[0])

    sys.setprofile(note)
    try:
        jobs = execute(plan, tmp_path / "results")
    finally:
        sys.setprofile(None)
    assert {job.status for job in jobs} == {"complete"}, [job.reason for job in jobs]
    engine = registry.get("backend", "hf")
    roots = [cls for job in jobs for cls in definitions(job.method)]
    keyed = closure([*roots, type(plan.task), type(plan.judge), *RULES, engine, *engine.kernels])
    free = {module: names for module, own in ran.items() if (names := {n for n in own if (module, n) not in keyed})}
    assert len(keyed) > 200
    assert {m: n for m, n in free.items() if m not in UNKEYED} == {}
