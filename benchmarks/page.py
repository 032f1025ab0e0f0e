"""How quick the page is with 100,000 generations, in a real browser and from `file://`.

    python benchmarks/page.py                # minutes on one core; prints JSON, `--save` keeps it beside this file

Two shapes of the same size: many concepts with few answers each, and few concepts with many. Every time is the
median of five fresh tabs, from the address typed to the element in sight; `search` reads every answer.

Invariant: the results are made from seeds, so that only the times differ between two runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from page_cases import Recipe, write
from playwright.sync_api import Browser, sync_playwright

from bench import results
from bench.report import page
from bench.results import provenance
from bench.results.tables import tables

SAVED = Path(__file__).with_suffix(".json")
METHODS = [(f"way-{i}", "activations") for i in range(18)] + [("prompt", "prompt"), ("none", "control")]
SHAPES = {"wide": (500, 10), "deep": (10, 500)}
"""Concepts, and instructions of each; times 20 methods."""
REPEATS = 5
FLAGS = ("no-sandbox", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
         "disable-quic", "disable-dev-shm-usage")  # fmt: skip


def make(shape: str, root: Path) -> dict[str, Any]:
    """Results and their page; how long the page took to write, and how large it is."""
    concepts, tests = SHAPES[shape]
    write(Recipe(METHODS, tuple(f"concept-{i}" for i in range(concepts)), tests=tests), root / "results")
    shown = tables(results.load(root / "results"))
    begun = time.perf_counter()
    page.write(shown, root / "reports", {}, {})
    seconds = time.perf_counter() - begun
    data = root / "reports" / "page" / "data"
    answers = [path.stat().st_size for path in data.glob("*/*-test-*.js")]
    return {
        "generations": len(METHODS) * concepts * tests,
        "write_seconds": round(seconds, 1),
        "first_load_bytes": (data / "overview.js").stat().st_size,
        "index_bytes": next(data.glob("*/index.js")).stat().st_size,
        "answer_files": len(answers),
        "largest_answer_file_bytes": max(answers),
        "all_bytes": sum(path.stat().st_size for path in data.rglob("*.js")),
    }


def opened(browser: Browser, folder: Path, address: str, awaited: str) -> list[float]:
    """Milliseconds until `awaited` is in sight, in fresh tabs."""
    found = []
    for _ in range(REPEATS):
        context = browser.new_context(viewport={"width": 1300, "height": 900})
        tab = context.new_page()
        begun = time.perf_counter()
        tab.goto(f"{(folder / 'index.html').as_uri()}{address}", wait_until="commit")
        tab.locator(awaited).first.wait_for()
        found.append(1000 * (time.perf_counter() - begun))
        context.close()
    return found


def used(browser: Browser, folder: Path) -> dict[str, list[float]]:
    """Milliseconds of what a reader does in the open explorer."""
    found: dict[str, list[float]] = {"sort": [], "last_case": [], "search": []}
    for _ in range(REPEATS):
        context = browser.new_context(viewport={"width": 1300, "height": 900})
        tab = context.new_page()
        tab.goto(f"{(folder / 'index.html').as_uri()}#/samples")
        tab.locator(".answer").first.wait_for()
        begun = time.perf_counter()
        tab.get_by_label("First").select_option("methods")
        tab.get_by_text(" over ").first.wait_for()
        found["sort"].append(1000 * (time.perf_counter() - begun))
        title = tab.locator(".detail h2").inner_text()
        begun = time.perf_counter()
        tab.locator(".list").press("End")
        tab.wait_for_function("text => document.querySelector('.detail h2').textContent !== text", arg=title)
        found["last_case"].append(1000 * (time.perf_counter() - begun))
        begun = time.perf_counter()
        tab.locator("#search").fill("castle castle castle")
        tab.wait_for_function("() => { const m = /(\\d+) of (\\d+) file/.exec(document.querySelector('.count')"
                              ".textContent); return m && m[1] === m[2]; }", timeout=120_000)  # fmt: skip
        found["search"].append(1000 * (time.perf_counter() - begun))
        context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="How quick the page is with 100,000 generations.")
    parser.add_argument("--save", action="store_true", help=f"also write {SAVED.name}")
    parser.add_argument("--shape", choices=list(SHAPES), help="only this one")
    asked = parser.parse_args()
    report: dict[str, Any] = {}
    chromium = shutil.which("chromium")
    with sync_playwright() as driver:
        for shape in [asked.shape] if asked.shape else SHAPES:
            with tempfile.TemporaryDirectory() as folder:
                row = make(shape, Path(folder))
                browser = driver.chromium.launch(executable_path=chromium, args=[f"--{flag}" for flag in FLAGS])
                reports = Path(folder) / "reports"
                times = {
                    "front_page": opened(browser, reports, "", ".board tbody tr"),
                    "explorer": opened(browser, reports, "#/samples", ".answer"),
                    "method": opened(browser, reports, "#/method/prompt", ".result tbody tr"),
                    **used(browser, reports),
                }
                report[shape] = row | {f"{name}_ms": round(statistics.median(v)) for name, v in times.items()}
                report["browser"] = f"Chromium {browser.version}"
                browser.close()
            print(f"{shape}: {json.dumps(report[shape])}", file=sys.stderr)
    report["hardware"] = provenance.provenance()["hardware"]
    text = json.dumps(report, indent=1) + "\n"
    if asked.save:
        SAVED.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
