"""Reports of runs whose names and texts would do something hold them as they are, and none does anything."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import committed
from payloads import FORMULA, PAYLOADS

from bench.core.content import digest
from bench.core.escape import NUMBER
from bench.report.build import build
from bench.results.runs import Run, load


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    """Three committed runs whose method names, concepts and texts are payloads."""
    root = tmp_path_factory.mktemp("hostile") / "results"
    for i, method in enumerate(("prompt", "diffmean", "none")):
        path = committed(method) / "run.json"
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        named = dict(zip(data["concepts"], PAYLOADS, strict=False))
        data["concepts"] = {named[k]: v | {"text": named[k]} for k, v in data["concepts"].items()}
        for k, sample in enumerate(data["samples"]):
            sample |= {"concept": named[sample["concept"]], "text": PAYLOADS[k % len(PAYLOADS)]}
            sample |= {"instruction": PAYLOADS[(k + 1) % len(PAYLOADS)], "said": {"concept": PAYLOADS[k % 5]}}
        if i:
            data["spec"]["method"] = PAYLOADS[(0, 7)[i - 1]] + PAYLOADS[(1, 11)[i - 1]]
            data["surface"] = "=1+1"
        data["id"] = digest(data["spec"])[:10]
        out = root / "axbench" / "model" / f"run-{i}"
        out.mkdir(parents=True)
        (out / "run.json").write_text(json.dumps(data), "utf-8")
    return root, load(root)


@pytest.mark.slow
def test_reports_of_hostile_runs_hold_no_markup_and_no_formula(hostile: tuple[Path, list[Run]], tmp_path: Path) -> None:
    written = build(hostile[0], tmp_path)
    assert {path.suffix for path in written} == {".md", ".csv", ".html", ".json", ".png", ".svg"}
    assert {path.parent for path in written} == {tmp_path}
    page = (tmp_path / "leaderboard.md").read_text("utf-8")
    assert "&lt;script&gt;" in page
    assert not re.search(r"<(script|img)", page)
    assert not re.search(r"(?<!\\)\]\(javascript|https?://", page)
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", page, re.M)]
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    for path in written:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.reader(file):
                    assert not [v for v in row if v.startswith(FORMULA) and not NUMBER.match(v)], path.name
        if path.suffix == ".svg":
            parts = list(ElementTree.fromstring(path.read_text("utf-8")).iter())  # it is XML, whatever is in a name
            assert not {part.tag.rpartition("}")[2] for part in parts} & {"script", "a", "foreignObject"}
            assert not [key for part in parts for key in part.attrib if key.startswith("on")]
    json.loads((tmp_path / "leaderboard.json").read_text("utf-8"))
