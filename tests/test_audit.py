"""`bench check results` finds what is wrong with a results folder, and names it; the committed one is clean."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import committed

from bench import results
from bench.cli.main import main
from bench.core.content import digest
from bench.results import audit, frames

ROOT = Path(__file__).resolve().parents[1]
MODEL = Path("axbench") / "SmolLM2-135M-Instruct"
KEPT = ("none", "random", "shuffled", "prompt", "diffmean")


def sources() -> list[Path]:
    """One run each of the controls and of diffmean, of whatever is committed."""
    return [committed(method) for method in KEPT]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for source in sources():
        shutil.copytree(source, tmp_path / "results" / MODEL / source.name)
    return tmp_path / "results"


def folder(root: Path, method: str = "diffmean") -> Path:
    return next((root / MODEL).glob(f"{method}-??????????"))


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text("utf-8"))
    edit(data)
    path.write_text(json.dumps(data), "utf-8")


def problems(root: Path) -> list[str]:
    return [f"{found.path}: {found.problem}" for found in audit.check(root)]


@pytest.mark.slow
def test_the_committed_results_are_clean() -> None:
    assert problems(ROOT / "results") == []


def test_whole_runs_with_their_controls_are_clean(root: Path) -> None:
    assert problems(root) == []


def test_the_archive_is_held_to_the_rules_and_read_by_nothing_else(root: Path) -> None:
    shutil.move(root / MODEL, root / "archive" / MODEL)
    assert problems(root) == []
    assert list(results.load(root)) == list(frames.load(root)) == []
    change(folder(root / "archive") / "run.json", lambda data: data.update(id="0000000000"))
    found = {found.path for found in audit.check(root)}
    assert f"archive/{folder(root / 'archive').relative_to(root / 'archive')}/run.json" in found
    assert all(path.startswith("archive/") for path in found)


def respec(data: dict[str, Any], **fields: Any) -> None:
    """A run of another spec, with the names that follow from it."""
    data["spec"] |= fields
    data["id"] = digest(data["spec"])[:10]
    data["group"] = digest(data["spec"] | {"method": "", "method_params": {}, "prompter": ""})[:10]


def first(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(data["concepts"].values()))
    return found


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "version": (lambda d: d.update(version=99), "version is 99, none of 1"),
    "lacking": (lambda d: d.pop("samples"), "it lacks samples"),
    "spec": (lambda d: d["spec"]["protocol"].update(seed=7), "and its spec gives"),
    "group": (lambda d: d.update(group="0123456789"), "its group is 0123456789"),
    "method": (lambda d: respec(d, method="lost"), "method 'lost' is not registered, and retired.toml does not say"),
    "task": (lambda d: respec(d, task="lost"), "task 'lost' is not registered"),
    "model": (lambda d: respec(d, model="other"), "and its spec says axbench/other/diffmean-"),
    "preset": (lambda d: d["spec"]["protocol"].update(preset="quick"), "preset quick is for looking around"),
    "limit": (lambda d: d["spec"]["protocol"].update(concepts=2), "limited to 2 concepts"),
    "refused": (lambda d: d.update(refused=["why"]), "it was refused: why"),
    "partial": (lambda d: d.update(status="partial"), "its status is partial"),
    "dirty": (lambda d: d["provenance"].update(dirty=["a.py"]), "uncommitted changes: a.py"),
    "commit": (lambda d: d["provenance"].update(commit=None), "it names no commit"),
    "sweep": (lambda d: d["asked"].update(protocol={"select": 8}), "its protocol is not the preset's: select"),
    "place": (lambda d: d["asked"].update(model="/home/me/model"), "asked.model names a place on one machine: /home"),
    "score": (lambda d: first(d)["test"].update(overall=1.9), "test overall is 1.9, and its samples give"),
    "rating": (lambda d: d["samples"][0]["ratings"].update(overall=1.9), "and its samples give"),
    "metric": (lambda d: d["metrics"].update(overall_low=0.0), "metric overall_low is 0.0, and its samples give"),
    "missing": (lambda d: d["counts"].update(missing=3), "counts 3 missing ratings, and its samples 0"),
    "twice": (lambda d: d["samples"].append(d["samples"][0]), "stands 2 times"),
    "concept": (
        lambda d: d["samples"][0].update(concept="strange"),
        "samples.0.concept is 'strange', which is none of its concepts",
    ),
    "picked": (lambda d: first(d)["picked"].update(coefficient=9.0), "picked is none of the settings that were tried"),
    "shape": (lambda d: d.update(concepts=[]), "concepts is [], not an object"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_run_is_named_with_what_is_wrong(root: Path, case: str) -> None:
    edit, said = TAMPERED[case]
    change(folder(root) / "run.json", edit)
    found = [line for line in problems(root) if said in line]
    assert found
    assert all(line.startswith(f"{MODEL.as_posix()}/diffmean-") for line in found)


def test_a_retired_method_needs_a_reason(root: Path) -> None:
    change(folder(root) / "run.json", lambda d: respec(d, method="lost"))
    path = folder(root)
    data = json.loads((path / "run.json").read_text("utf-8"))
    path.rename(path.with_name(f"lost-{data['id']}"))
    for judged in (root / MODEL / f"lost-{data['id']}").glob("judged-*.json"):
        change(judged, lambda d: d.update(run=data["id"]))
    (root / MODEL / f"lost-{data['id']}" / "overhead.json").unlink(missing_ok=True)
    assert any("method 'lost' is not registered" in line for line in problems(root))
    (root / audit.RETIRED).write_text('[method]\nlost = "was the mean of two others"\n')
    assert problems(root) == []
    (root / audit.RETIRED).write_text('[method]\nlost = ""\n')
    assert any("write [method], [task] or [judge] tables" in line for line in problems(root))


def test_a_copy_of_a_run_and_a_strange_file_are_found(root: Path) -> None:
    shutil.copytree(folder(root), root / MODEL / "diffmean-0000000000")
    (folder(root) / "notes.txt").write_text("mine")
    (root / "axbench" / ".run.json.tmp").write_text("{")
    lines = problems(root)
    assert any("the same run" in line and "lies in" in line for line in lines)
    assert any("diffmean-0000000000" in line and "its spec says" in line for line in lines)
    assert sum("is no file of a results folder" in line for line in lines) == 2


def test_a_table_without_its_controls_is_found(root: Path) -> None:
    shutil.rmtree(folder(root, "random"))
    (line,) = problems(root)
    assert line.startswith(MODEL.as_posix())
    assert "lacks its controls: random" in line


OPINIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "run": (lambda d: d.update(run="0123456789"), "belongs to run 0123456789"),
    "judge": (lambda d: d.update(judge_params={}), "its judge and parameters give the name judged-embedding-"),
    "independent": (lambda d: d.update(judge="likelihood"), "it calls likelihood independent, which it is not"),
    "samples": (lambda d: d["samples"].pop(), "it rates other samples than the run has"),
    "means": (lambda d: first(d).update(fluency=0.0), "fluency is 0.0, and its ratings give"),
    "dirty": (lambda d: d["provenance"].update(dirty=["x"]), "uncommitted changes: x"),
    "version": (lambda d: d.update(version=9), "is not a judge's opinion"),
    "place": (lambda d: d["calibration"].update(model="/home/me/m"), "calibration.model names a place on one machine"),
}


@pytest.mark.parametrize("case", OPINIONS)
def test_an_opinion_must_belong_and_add_up(root: Path, case: str) -> None:
    edit, said = OPINIONS[case]
    path = next(folder(root).glob("judged-embedding-*.json"))
    change(path, edit)
    assert [line for line in problems(root) if said in line and f"/{path.name}: " in line]


def test_a_file_beside_a_run_names_no_place_of_a_machine(root: Path) -> None:
    run = json.loads((folder(root) / "run.json").read_text("utf-8"))["id"]
    entry = {"kind": "lm-eval", "concept": "c", "coefficient": 0.1, "numbers": {}}
    entries = {"tiny": entry | {"model": "/home/me/model"}}
    (folder(root) / "capability.json").write_text(json.dumps({"run": run, "entries": entries}))
    (line,) = problems(root)
    assert "capability.json: entries.tiny.model names a place on one machine: /home/me/model" in line
    (folder(root) / "capability.json").unlink()
    row = {"id": "x", "text": "in /home/me", "instruction": "/home/you", "ratings": {}, "reasons": {"a": "no /tmp/key"}}
    concept = next(iter(json.loads((folder(root) / "run.json").read_text("utf-8"))["concepts"]))
    at = {"concept": concept, "candidate": 0, "coefficient": 0.1}
    (folder(root) / "trials.jsonl").write_text(json.dumps(row | at) + "\n")
    assert [line for line in problems(root) if "names a place" in line] == [
        f"{(folder(root) / 'trials.jsonl').relative_to(root)}: sample x, reasons.a names a place on one machine: "
        "no /tmp/key"
    ]


def test_an_answer_under_an_order_may_speak_of_a_place(root: Path) -> None:
    """A small model makes up paths; where a program wrote one, beside it, that is found."""

    def order(data: dict[str, Any]) -> None:
        row = data["samples"][0]
        own = {"id": row["id"], "concept": row["concept"], "instruction": "and none", "tokens": 1, "touched": [0]}
        own |= {"text": "cd /home/me", "ratings": {data["axes"][0]: 1.0}, "reasons": {data["axes"][0]: "/home/judge"}}
        data["specificity"] = {"adverse": {"key": "k", "axis": data["axes"][0], "samples": [own]}}

    change(folder(root) / "run.json", order)
    (line,) = [line for line in problems(root) if "names a place" in line]
    assert line.endswith("names a place on one machine: /home/judge")


@pytest.mark.slow
def test_trials_must_give_the_means_settings_were_picked_by(root: Path) -> None:
    path = folder(root) / "trials.jsonl"
    data = json.loads((folder(root) / "run.json").read_text("utf-8"))
    rows = [
        {"concept": name, "candidate": t["candidate"], "coefficient": t["coefficient"], "id": f"{name}/select/{i}"}
        | {"ratings": {axis: t[axis] for axis in data["axes"]}}
        for name, concept in data["concepts"].items()
        for t in concept["select"]
        for i in range(t["n"])
    ]

    def lines(kept: list[dict[str, Any]]) -> list[str]:
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), "utf-8")
        return problems(root)

    assert lines(rows) == []
    assert any("trials.jsonl" in line and "and the answers give" in line for line in lines(rows[1:]))
    wrong = [*rows[:-1], rows[-1] | {"ratings": rows[-1]["ratings"] | {"overall": 2.0}}]
    assert any("overall is" in line and "and the answers give" in line for line in lines(wrong))
    assert any("is no setting of run.json" in line for line in lines([*rows, rows[0] | {"coefficient": 7.0}]))
    path.write_text("{broken\n")
    assert any("trials.jsonl, row 1 is not a list of this run's answers" in line for line in problems(root))


@pytest.mark.slow
def test_a_detector_s_auroc_is_computed_again(tmp_path: Path) -> None:
    base = Path("axbench-detect") / MODEL.name
    for source in sorted((ROOT / "results" / base).iterdir()):
        shutil.copytree(source, tmp_path / base / source.name)
    assert problems(tmp_path) == []
    path = next((tmp_path / base).glob("diffmean-*")) / "run.json"

    def pool(data: dict[str, Any]) -> None:
        """Texts of other concepts count for F1 alone."""
        own = data["samples"][0]
        data["samples"].append(own | {"id": "pooled", "label": "other", "score": 1e6, "ratings": {}})
        data["concepts"][own["concept"]]["test"]["n"] += 1

    change(path, pool)
    (line,) = problems(tmp_path)
    assert "f1_rare is" in line
    change(path, lambda d: d["samples"][0].update(score=-1e6))
    assert any(": auroc is" in line and "the scores of its texts give" in line for line in problems(tmp_path))


def test_the_command_prints_findings_and_exits_with_1(root: Path) -> None:
    def bench(*words: str) -> Any:
        return CliRunner().invoke(main, ["check", "results", "--results", str(root), *words])

    clean = bench()
    assert (clean.exit_code, clean.stdout) == (0, "5 runs, no findings\n")
    change(folder(root) / "run.json", lambda d: d["counts"].update(missing=3))
    broken = bench()
    assert broken.exit_code == 1
    assert broken.stdout.count("\n") == 2  # the count, and the metric made of it
    assert "5 runs, 2 findings" in broken.stderr
    told = json.loads(bench("--json").stdout)
    assert told["runs"] == 5
    assert {"path", "problem"} == set(told["findings"][0])
    empty = CliRunner().invoke(main, ["check", "results", "--results", str(root / "nothing")])
    assert empty.exit_code == 2


def test_a_method_is_still_checked_by_its_name_alone() -> None:
    found = CliRunner().invoke(main, ["check", "none"])
    assert found.exit_code == 0
    assert "ok  " in found.stdout
    assert CliRunner().invoke(main, ["check", "no-such-method"]).exit_code == 2
