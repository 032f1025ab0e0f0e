"""What the key of a result covers, tried on a copy of the program."""

from __future__ import annotations

import json
import linecache
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest
from copied_tree import ENGINE, KEYS, ROOT, Tree, asked

from bench.backends import tiny
from bench.core import definitions
from bench.core.definitions import CARRIERS, closure, code_digest
from bench.core.edits import Span
from bench.core.errors import UsageError
from bench.core.naming import build_method
from bench.core.registry import get, load_plugin
from bench.run.identity import keys

COUNTS = ("generations", "generated_now")

MOVED = (
    *("core.interfaces", "core.values", "core.steering", "core.rows", "core.store", "core.money"),
    *("run.strength", "run.trials", "run.fits", "results.runs"),
)


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    """Keys of every registered method, task and judge as the program stands."""
    return dict(asked(ROOT, KEYS))


@pytest.fixture(scope="module")
def engine() -> dict[str, str]:
    """Keys of the engine's kernels and of the rules of a run."""
    return dict(asked(ROOT, ENGINE))


def changed(one: dict[str, str], two: dict[str, str]) -> set[str]:
    assert one.keys() == two.keys()
    return {name for name in one if one[name] != two[name]}


@pytest.mark.slow
def test_where_code_lies_is_no_part_of_a_key(tmp_path: Path, before: dict[str, str], engine: dict[str, str]) -> None:
    tree = Tree(tmp_path)
    tree.move(*(f"bench.{name}" for name in MOVED), to="bench.moved")
    assert len(before) > 60
    assert changed(before, tree.ask(KEYS)) == set()
    assert changed(engine, tree.ask(ENGINE)) == set()


def harmless(tree: Tree) -> None:
    tree.append("bench/core/values.py", "\n\ndef unused(value: int) -> int:\n    return value + 1\n")
    tree.append("bench/core/kinds.py", "\n\nUNUSED = 3\n")
    tree.edit("bench/core/kinds.py", '"""h ← h + v. `value` is', '"""Adds a vector. `value` is')
    tree.edit("methods/diffmean.py", "        difference: Array", "        # a comment\n        difference: Array")
    tree.edit("methods/_directions.py", "import numpy as np", "import math\n\nimport numpy as np\n\nassert math")


@pytest.mark.slow
def test_unused_code_docstrings_comments_and_imports_are_no_part_of_a_key(
    tmp_path: Path, before: dict[str, str], engine: dict[str, str]
) -> None:
    tree = Tree(tmp_path)
    harmless(tree)
    assert changed(before, tree.ask(KEYS)) == set()
    assert changed(engine, tree.ask(ENGINE)) == set()


TOUCHED: list[tuple[str, tuple[str, str, str], tuple[str, ...]]] = [
    (
        "an attribute of Task",
        (
            "bench/core/interfaces.py",
            "    scale: ClassVar[float] = 2.0",
            "    more: ClassVar[int] = 1\n    scale: ClassVar[float] = 2.0",
        ),
        ("task *",),
    ),
    (
        "a rubric",
        ("bench/judges/rubrics.py", "SCALE = ", "SCALE = 'Think. ' + "),
        ("judge openai", "judge hf", "judge vllm"),
    ),
    (
        "what two methods share",
        ("methods/_attribution.py", "    C: Positive = 0.01", "    C: Positive = 0.02"),
        ("method ixg", "method ig"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("edit", "touched"), [row[1:] for row in TOUCHED], ids=[row[0] for row in TOUCHED])
def test_a_change_reaches_the_keys_of_all_that_name_it_and_no_other(
    edit: tuple[str, str, str], touched: tuple[str, ...], tmp_path: Path, before: dict[str, str]
) -> None:
    tree = Tree(tmp_path)
    tree.edit(*edit)
    wanted = {name for name in before if any(fnmatch(name, pattern) for pattern in touched)}
    assert wanted
    assert changed(before, tree.ask(KEYS)) == wanted


FLIPPED = ("bench/core/kinds.py", "        return value\n\n    def length", "        return -value\n\n    def length")
"""The sign of an added vector."""


@pytest.mark.slow
def test_a_changed_kernel_is_in_the_key_of_the_methods_whose_edits_it_makes(
    tmp_path: Path, before: dict[str, str]
) -> None:
    tree = Tree(tmp_path)
    tree.edit(*FLIPPED)
    touched = changed(before, tree.ask(KEYS))
    assert {"method diffmean", "method random", "method caa", "method sae", "method cast"} <= touched
    assert not {name for name in touched if not name.startswith("method ")}
    assert not {"method prompt", "method none", "method bow", "method prompt-search"} & touched


NUMBERS = {
    "the unit of a coefficient": (
        "bench/run/strength.py",
        "            return self.median_norm(concept, layer)\n",
        "            return 2 * self.median_norm(concept, layer)\n",
    ),
    "the rule that picks": ("bench/run/trials.py", "    return max(tried", "    return min(tried"),
    "the settings tried": ("bench/run/trials.py", "else rules.coefficients\n", "else rules.coefficients[:2]\n"),
    "the noise of an answer": ("bench/run/trials.py", "sample, instruction), 16)", "sample, instruction, 1), 16)"),
    "how a token is drawn": ("bench/backends/hf/sampling.py", "top.double() + noise", "top.double() - noise"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", NUMBERS)
def test_what_decides_a_number_beside_method_task_and_judge_is_in_the_key(
    what: str, tmp_path: Path, engine: dict[str, str]
) -> None:
    tree = Tree(tmp_path)
    tree.edit(*NUMBERS[what])
    assert changed(engine, tree.ask(ENGINE)) == {"engine" if what == "how a token is drawn" else "rules"}


RUN = """
import contextlib, io, json, os, sys
out = io.StringIO()
from bench.cli import main
with contextlib.redirect_stdout(out):
    try:
        main(sys.argv[1:])
    except SystemExit:
        pass
print(out.getvalue())
"""


@pytest.mark.slow
def test_after_a_flipped_sign_the_run_is_to_do_and_no_old_text_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, model = Tree(tmp_path / "tree"), tiny.build(tmp_path / "model")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    words = ("run", "-m", "random,none", "-n", "1", "--model", str(model.path), "--dtype", "float32")
    words += ("--results", str(tmp_path / "results"), "--json")

    def made() -> dict[str, tuple[str, int, int]]:
        rows = tree.ask(RUN, *words)["runs"]
        counts = {row["method"]: json.loads(Path(row["path"]).read_text("utf-8"))["counts"] for row in rows}
        return {row["method"]: (row["status"], *(counts[row["method"]][k] for k in COUNTS)) for row in rows}

    first = made()
    assert all(row[0] == "complete" and row[1] == row[2] > 0 for row in first.values())
    assert {row[0] for row in made().values()} == {"cached"}
    tree.edit(*FLIPPED)
    again = made()
    assert again["random"] == first["random"]  # to do again, and every text made anew
    assert again["none"][0] == "cached"  # nothing is added to a state there


@pytest.mark.slow
def test_every_committed_result_has_the_key_that_the_code_gives_it() -> None:
    """Through `results/keys.toml`. A change that alters numbers leaves runs out of date: say which below."""
    stale = {file for file, (known, given) in keys(ROOT / "results").items() if known != given}
    assert {file.split("/")[0] for file in stale} <= OUT_OF_DATE


OUT_OF_DATE = {"axbench-attack", "axbench-detect", "truthfulqa"}
"""Tasks whose committed files the present code would make otherwise: they wait to be made anew."""


@pytest.mark.slow
def test_a_key_stops_at_definitions_that_are_there() -> None:
    """And each is one definition: another of that name would drop out of the keys unseen.

    Commands and reports, which nothing that decides a number names, may use the word again.
    """
    modules = [m for m in sources("bench") if not m.startswith(("bench.cli", "bench.report"))]
    names = [name for module in modules for name in definitions.source(module).defines]
    assert {name: names.count(name) for name in CARRIERS} == dict.fromkeys(CARRIERS, 1)


def sources(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]


def test_a_trained_method_is_keyed_by_its_own_parametrisation_and_objective_alone() -> None:
    lora, reps = (build_method(name, {}).definitions for name in ("lora", "reps"))
    crossed = build_method("lora", {"lora": {"objective": "reps"}}).definitions
    assert len({code_digest(*one) for one in (lora, reps, crossed)}) == 3
    names = {name for _, name in closure(lora)}
    assert {"LoRAChange", "LM", "train", "Texts"} <= names
    assert not {"SSVDChange", "VectorChange", "RePS", "DPO"} & names


def test_a_plugin_s_method_is_keyed_as_a_shipped_one_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        (ROOT / "methods" / "diffmean.py").read_text("utf-8").replace('"diffmean"', '"diffmean-mine"'), "utf-8"
    )
    load_plugin(path)
    own = {name for _, name in closure([get("method", "diffmean-mine")])}
    assert own == {name for _, name in closure([get("method", "diffmean")])}


def test_a_definition_without_source_is_refused() -> None:
    made = type("Made", (), {"__module__": "nowhere"})
    with pytest.raises(UsageError, match=r"nowhere\.Made cannot be read: define it in a file"):
        code_digest(made)


def test_a_definition_of_a_notebook_is_read_from_its_cell() -> None:
    cell = "LIMIT = 3\nclass Mine:\n    def fit(self):\n        return LIMIT\n"
    module = ModuleType("notebook")
    sys.modules["notebook"] = module
    linecache.cache["<cell 1>"] = (len(cell), None, cell.splitlines(keepends=True), "<cell 1>")
    exec(compile(cell, "<cell 1>", "exec"), vars(module))
    assert {name for _, name in closure([module.Mine])} == {"Mine", "LIMIT"}
    del sys.modules["notebook"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import bench.core.edits\ndef f():\n    return bench.core.edits.Span()", {"Span"}),
        ("from bench.core import edits\ndef f():\n    return edits.Span", {"Span"}),
        ("from bench.core import edits as s\ndef f():\n    return s.Span().mask", {"Span"}),
        ("def f():\n    from bench.core.edits import Span as S\n    return S", {"Span"}),
        ("from bench import Span\ndef f(x: Span):\n    return x", {"Span"}),
        ("A = 1\nB = [A]\nB.append(2)\nC = 4\ndef f():\n    return B", {"A", "B"}),
        ("C = 4\ndef f(C):\n    return C", set()),
        ("try:\n    C = 4\nexcept ValueError:\n    C = 5\ndef f():\n    return C", {"C"}),
    ],
)
def test_what_a_definition_names(text: str, named: set[str], tmp_path: Path) -> None:
    (tmp_path / "plugged.py").write_text(text, "utf-8")
    module = load_plugin(tmp_path / "plugged.py")
    reached = {place for place in closure([module.f]) if place[1] != "f"}
    assert {name for _, name in reached} - STEERING == named


STEERING = {name for _, name in closure([Span])} - {"Span"}
