"""Generated documentation is what its generator gives, and every page that is linked exists."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from conftest import script

import bench
from bench.cli.main import main
from bench.core import registry
from bench.core.errors import BenchError
from bench.core.escape import csv_text
from bench.report.figures import verdicts
from bench.results.tables import Table
from bench.results.verdict import answers

documents = script("tools/documents.py")
COMMAND, filled = documents.COMMAND, documents.filled
ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_committed_commands_are_the_generated_ones() -> None:
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == documents.commands(main), (
        f"docs/cli.md is stale; run: {COMMAND}"
    )


@pytest.mark.slow
def test_the_readme_s_blocks_are_the_generated_ones(committed_tables: list[Table]) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert filled(text, documents.blocks(committed_tables)) == text, f"README.md is stale; run: {COMMAND}"


def test_the_table_of_pairs_is_the_measured_one() -> None:
    text = (ROOT / "docs" / "training.md").read_text("utf-8")
    block = documents.crossing(ROOT)
    assert block in text, f"docs/training.md is stale; run: {COMMAND}"
    rows = json.loads((ROOT / "benchmarks" / "crossing.json").read_text("utf-8"))["rows"]
    assert block.count("**") / 2 == sum(at["margin"][1] > 0 for one in rows for at in one.get("at", {}).values())


def test_the_page_of_measurements_is_made_of_them() -> None:
    made = script("benchmarks/results.py")
    assert made.PAGE.read_text("utf-8") == made.page()


def test_the_table_of_effects_is_the_measured_one() -> None:
    block = documents.synergy(ROOT)
    assert block in (ROOT / "docs" / "training.md").read_text("utf-8"), f"docs/training.md is stale; run: {COMMAND}"
    assert block.count("\n| ") == 5


@pytest.mark.slow
def test_the_tables_of_suppression_are_those_of_the_results(
    committed_tables: list[Table], archived_tables: list[Table]
) -> None:
    block = documents.suppression([*committed_tables, *archived_tables])
    page = (ROOT / "docs" / "reproduction.md").read_text("utf-8")
    assert block in page, f"docs/reproduction.md is stale; run: {COMMAND}"


@pytest.mark.slow
def test_the_numbers_of_the_paper_are_those_of_the_results(
    committed_tables: list[Table], archived_tables: list[Table]
) -> None:
    for page, found in {
        "results.md": documents.paper["blocks"](committed_tables),
        "reproduction.md": {"published": documents.paper["published"](committed_tables, archived_tables)},
    }.items():
        text = (ROOT / "docs" / page).read_text("utf-8")
        assert filled(text, found) == text, f"docs/{page} is stale; run: {COMMAND}"


def every(command: click.Command, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(command)
    names = command.list_commands(context) if isinstance(command, click.Group) else []
    return [words, *(found for name in names for found in every(command.get_command(context, name), (*words, name)))]  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", every(main), ids=lambda words: " ".join(words) or "bench")
def test_the_page_has_what_help_prints(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*words, "--help"], prog_name="bench", terminal_width=100)
    assert shown.exit_code == 0
    assert f"## {' '.join(('bench', *words))}\n\n```text\n{shown.stdout.rstrip()}\n```" in documents.commands(main)
    about = shown.stdout.split("\n\n")[1].strip()
    assert about
    assert not about.startswith("Options")


def test_the_readme_s_commands_exist() -> None:
    """Every `bench …` line in a shell block of a page names a command and options that it has."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                at = re.match(r"(?:srun |\w+=\S+ )*bench (.*?)(?:  #.*|&.*)?$", line.strip())
                if at:
                    _known(at[1].split(), f"{page.name}: {line}")


def _known(words: list[str], where: str) -> None:
    command: click.Command = main
    context = click.Context(command)
    while isinstance(command, click.Group) and words and words[0] in command.list_commands(context):
        command = command.get_command(context, words.pop(0)) or command
    if isinstance(command, click.Group):
        if command is main and words == ["--help"]:
            return
        assert command is not main, where
        command = next(iter(command.commands.values()))  # the command meant where none is named
    known = {name for option in command.params for name in option.opts} | {"--help"}
    assert {word for word in words if re.fullmatch(r"--[a-z-]+", word)} <= known, where


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in link and page.name != "leaderboard.md":
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_of_the_documentation_has_one_place_in_the_site() -> None:
    found: list[str] = []
    todo = [yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]]
    while todo:
        node = todo.pop()
        if isinstance(node, str):
            found.append(node)
        else:
            todo += node if isinstance(node, list) else node.values()
    docs = ROOT / "docs"
    assert sorted(found) == sorted(
        page.relative_to(docs).as_posix() for page in docs.rglob("*") if page.suffix in (".md", ".ipynb")
    )


def test_the_front_page_leads_to_every_page() -> None:
    text = (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name}" in text, page.name


def test_a_block_is_replaced_and_a_page_without_it_refused() -> None:
    page = "a\n<!-- x: made by hand -->\nold\nlines\n<!-- /x -->\nb\n"
    assert filled(page, {"x": "new \\1"}) == "a\n<!-- x: made by hand -->\nnew \\1\n<!-- /x -->\nb\n"
    for broken in ("a\n", page + page):
        with pytest.raises(BenchError, match="needs one block"):
            filled(broken, {"x": "new"})


def test_the_readme_counts_every_shipped_method() -> None:
    block = documents.surfaces()
    shipped = [cls for cls in registry.table("method").values() if cls.__module__.startswith("methods.")]
    counts = [int(line.split("|")[3]) for line in block.splitlines()[2:] if line.split("|")[3].strip().isdigit()]
    assert sum(counts) == len(shipped)
    assert set(re.findall(r"docs/methods.md#([\w-]+)", block)) <= {cls.name for cls in shipped}


def test_the_picture_shows_the_verdicts_of_the_results(committed_tables: list[Table]) -> None:
    figure = verdicts.verdicts(committed_tables)
    assert figure is not None
    assert csv_text(figure.rows) == (ROOT / f"{documents.PICTURE}.csv").read_text("utf-8"), f"stale; run: {COMMAND}"
    found = answers(committed_tables)
    for model in dict.fromkeys(row["model"] for row in figure.rows):
        own = [one.said for one in found if one.table.spec["model"] == model]
        assert [row["verdict"] for row in figure.rows if row["model"] == model] == own
    assert verdicts.verdicts([]) is None


def test_a_task_on_two_models_keeps_its_name_and_stands_below_its_model(table: Table) -> None:
    """No other table is of that task and model, so that it needs no longer title."""
    other = replace(table, group="other", spec=table.spec | {"model": "another", "weights": "x"})
    figure = verdicts.verdicts([table, other])
    assert figure is not None
    rows = figure.rows
    assert [(row["model"], row["asked"]) for row in rows] == [
        (table.spec["model"], "Write about a concept"),
        ("another", "Write about a concept"),
    ]
    twin = replace(other, group="twin", spec=other.spec | {"data": "y"})
    figure = verdicts.verdicts([table, twin, other])
    assert figure is not None
    told = [row["asked"] for row in figure.rows]
    assert told == ["Write about a concept", *[table.title] * 2]


def test_the_caption_names_each_question_once_and_the_steering_where_verdicts_differ() -> None:
    def line(model: str, asked: str, steering: str, verdict: str) -> dict[str, str]:
        return {"model": model, "asked": asked, "steering": steering, "verdict": verdict}

    rows = [
        line("one", "Sing", "x", "undecided"),
        line("one", "Sing", "y", "undecided"),
        line("one", "Hum", "x", "prompt"),
        line("one", "Hum", "y", "undecided"),
        line("two", "Sing", "x", "prompt"),
    ]
    assert verdicts.said(rows) == "one. Undecided: sing; hum (y). Prompt: hum (x). two. Prompt: sing."


def test_package_citation_and_changelog_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert project["version"] == bench.__version__ == cited["version"]
    assert project["license"] == cited["license"] == "Apache-2.0"
    assert project["keywords"] == cited["keywords"]
    assert [one["name"] for one in project["authors"]] == [one["name"] for one in cited["authors"]]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert {"cff-version", "message", "title", "authors"} <= set(cited)


def plugin_block(decorator: str) -> str:
    page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    return next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if f"\n{decorator}" in block)


@pytest.mark.parametrize(
    ("words", "decorator"),
    [(("nearness",), "@stored"), (("task", "shout"), "@task"), (("judge", "brief"), "@judge")],
)
def test_the_plugins_of_the_page_keep_their_contracts(words: tuple[str, ...], decorator: str, tmp_path: Path) -> None:
    plugin = tmp_path / f"my_{words[-1]}.py"
    plugin.write_text(plugin_block(decorator))
    checked = CliRunner().invoke(main, ["check", *words, "--plugin", str(plugin)])
    assert checked.exit_code == 0, checked.output
    assert "FAIL" not in checked.stdout


@pytest.mark.slow
def test_the_task_of_the_page_on_plugins_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "my_task.py"
    plugin.write_text(plugin_block("@task"))
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    command = [
        "run",
        "-t",
        "shout",
        "-m",
        "prompt,diffmean,none",
        "--plugin",
        str(plugin),
        "--backend",
        "fake",
        "--json",
    ]
    ran = CliRunner().invoke(main, command)
    assert ran.exit_code == 0, ran.output
    assert {row["status"] for row in json.loads(ran.stdout)["runs"]} == {"complete"}


@pytest.mark.slow
def test_renewing_a_checkout_that_is_fresh_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").symlink_to(ROOT / "results")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    pages = (f"docs/{name}.md" for name in ("training", "reproduction", "judge", "data", "engines", "results"))
    for name in ("README.md", *pages):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for path in documents.renew(tmp_path, main):
        if path.suffix in (".png", ".svg"):  # pictures depend on the machine's fonts
            continue
        assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes()
