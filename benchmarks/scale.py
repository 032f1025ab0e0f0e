"""Whether a run of many concepts stays linear and fits a laptop: CPU seconds and memory, without a model.

For each number of concepts, ten methods run under preset paper on the fake backend with the likelihood judge: once with
an empty cache (`fill`), then with everything in the store and an empty results folder (`resume`), then `bench report`.
The concepts are made of the shipped set's texts. CPU seconds are of the whole command, its start included; `per` is
CPU seconds for 100,000 kept generations, each with its three ratings; memory is the peak resident set. `linear` sets
the largest size's CPU seconds against the smallest's, scaled by the concepts: 1.0 is linear, 1.25 the most allowed.

    python benchmarks/scale.py --keep FOLDER            # an hour on one core; a kept folder is not filled again
    python benchmarks/scale.py --concepts 50 --methods none,diffmean
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.core.store import write_json
from bench.data.layout import ASKED, EVALUATION, SHARED, TRAIN, Text, write
from bench.results import provenance

SAVED = Path(__file__).with_suffix(".json")
TREE = Path(__file__).resolve().parents[1]
GENRE = TREE / "tasks" / "data" / "mini" / "genres" / "text.json"
CONCEPTS = (50, 150, 500)
METHODS = "none,prompt,random,shuffled,diffmean,mean,pca,lat,ablate,actadd"
TARGETS = {"resume_per": 60.0, "resume_mib": 1024, "report_seconds": 60.0, "linear": 1.25}


def data(folder: Path, concepts: int) -> None:
    """A data set in AxBench's layout: each concept has its own word in the positives of one shared set."""
    genre = json.loads(GENRE.read_text("utf-8"))
    plain = [(one["instruction"], one["response"]) for one in genre["train"]]
    texts = [Text(TRAIN, i, "train", SHARED, "negative", "text", *one) for i, one in enumerate(plain)]
    for n in range(concepts):
        for instruction, response in plain:
            said = f"{response} That brings the glimmer number {n} to mind."
            texts.append(Text(TRAIN, len(texts), "train", str(n), "positive", "text", instruction, said))
    tested = [
        Text(EVALUATION, n, "evaluation", str(n), "positive", "text", f"Why {n}?", f"{n}.") for n in range(concepts)
    ]
    named = [{"concept": f"glimmers of the kind numbered {n}", "genre": "text"} for n in range(concepts)]
    write(folder, named, [*texts, *tested])
    write_json(folder / ASKED, [{"instruction": text} for text in genre["evaluation"]])


def command(place: Path, *words: str) -> dict[str, Any]:
    """CPU seconds and peak memory of a `bench` command."""
    environment = os.environ | {"BENCH_CACHE": str(place / "cache"), "BENCH_RESULTS": str(place / "results")}
    with (place / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", *words], stdout=log, stderr=log, env=environment, cwd=TREE
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"bench {' '.join(words)} failed; see {place / 'log'}")
    return {"cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "mib": round(used.ru_maxrss / 1024)}


def kept(place: Path) -> dict[str, int]:
    """Rows in the store by kind."""
    found: dict[str, int] = {}
    for path in place.glob("cache/rows/*/*/*.jsonl"):
        with path.open("rb") as file:
            kind = path.parts[-3]
            found[kind] = found.get(kind, 0) + sum(1 for _ in file)
    return found


def measured(place: Path, concepts: int, methods: str) -> dict[str, Any]:
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "data").is_dir():
        data(place / "data", concepts)
    words = ["run", "-m", methods, "--backend", "fake", "--judge", "likelihood", "--preset", "paper",
             "--data", str(place / "data")]  # fmt: skip
    found: dict[str, Any] = {"concepts": concepts}
    filled = place / "filled.json"
    if not filled.is_file():
        write_json(filled, command(place, *words))
    found["fill"] = json.loads(filled.read_text())
    found["rows"] = kept(place)
    shutil.rmtree(place / "results")
    found["resume"] = command(place, *words)
    found["report"] = command(place, "report", "--out", str(place / "again"))
    found["list"] = command(place, "list", "runs")
    per = found["rows"]["generations"] / 1e5
    for part in ("fill", "resume"):
        found[part]["per"] = round(found[part]["cpu_seconds"] / per, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", default=",".join(map(str, CONCEPTS)))
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--keep", type=Path, help="where the stores stay, for the next time")
    parser.add_argument("--save", action="store_true", help=f"write {SAVED.name}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.keep or Path(folder)
        rows = []
        for size in map(int, given.concepts.split(",")):
            rows.append(measured(root.resolve() / f"{size}", size, given.methods))
            print(json.dumps(rows[-1]), flush=True)
    found: dict[str, Any] = {"methods": given.methods.split(","), "targets": TARGETS, "rows": rows}
    found["provenance"] = provenance.provenance()
    if len(rows) > 1:
        few, many = rows[0], rows[-1]
        found["linear"] = {
            part: round(many[part]["cpu_seconds"] / many["concepts"] / (few[part]["cpu_seconds"] / few["concepts"]), 2)
            for part in ("fill", "resume", "report")
        }
        print(json.dumps(found["linear"]))
    if given.save:
        write_json(SAVED, found)


if __name__ == "__main__":
    main()
