"""Tokens a second of the engine `hf` here and at another commit that is checked out in FOLDER, in turns.

`python -m benchmarks.writing FOLDER` writes steered answers to 64 and to 256 prompts (each its own vector, in batches
as the engine of each side makes them) and reads 128 texts, with the default model in both number types. Each turn is a
process of its own with one thread; seconds are of its processor, so that neighbours on the machine count little. The
first answers of a process warm it and are not counted. Writes `writing.json`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve()
TYPES = ("bfloat16", "float32")
TOKENS, LAYER, SIZE = 24, 15, 60.0
ASKED = "Tell me what you know about the number {}, and why people might care."
PLAIN = "It is a number like others, and it is seldom asked for. It can be counted to, and it has two neighbours. " * 4


def work(dtype: str) -> None:
    """Print tokens a second of each part under the package that this process finds, as JSON."""
    import torch

    torch.set_num_threads(1)
    known = importlib.import_module("fitting").known  # beside this file: the other commit has another
    engine = known("bench.backends.hf.backend:HFBackend", "bench.backends.hf:HFBackend")
    resolve, default = (
        known(f"bench.backends.models:{name}", f"bench.models:{name}") for name in ("resolve", "DEFAULT")
    )
    request, sampling = (known(f"bench.core.values:{n}", f"bench.schema:{n}") for n in ("Request", "Sampling"))
    add = known("bench.core.kinds:Add", "bench.steering:Add")
    steering = known("bench.core.steering:Steering", "bench.steering:Steering")
    backend = engine(resolve(default), dtype)
    drawn = np.random.default_rng(0).standard_normal((256, backend.module.config.hidden_size)).astype(np.float32)
    pushes = [steering(edits=(add(layer=LAYER, value=v * np.float32(SIZE / np.linalg.norm(v))),)) for v in drawn]
    asked = [(("user", ASKED.format(n)),) for n in range(256)]

    def written(count: int, tokens: int = TOKENS) -> int:
        rows = [request(asked[n], pushes[n].scaled(0.2), sampling(tokens), n) for n in range(count)]
        return sum(answer.tokens for _, answer in backend.generate(rows))

    def read() -> int:
        rows = [request(asked[n], pushes[n].scaled(0.2), target=PLAIN) for n in range(128)]
        return sum(len(found.logprobs) for _, found in backend.logprobs(rows))

    written(8, 4)
    parts = {"write 64": lambda: written(64), "write 256": lambda: written(256), "read": read}
    found = {}
    for name, part in parts.items():
        begun = time.process_time()
        found[name] = part() / (time.process_time() - begun)
    print(json.dumps(found))


def turn(folder: Path, dtype: str) -> dict[str, float]:
    """What `work` prints under the package in `folder`."""
    places = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE), "--work", dtype]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **places}, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.decode().splitlines()[-1])
    print(folder.name, dtype, {name: round(value, 1) for name, value in found.items()}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a checkout of the other commit")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--work", choices=TYPES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work)
        return
    if asked.folder is None:
        parser.error("name the folder of the other commit")
    from bench.core.store import write_json
    from bench.results import provenance
    from benchmarks.fitting import commit

    sides = {"before": asked.folder.resolve(), "after": HERE.parents[1]}
    seen: dict[str, dict[str, list[dict[str, float]]]] = {t: {side: [] for side in sides} for t in TYPES}
    for _ in range(asked.turns):
        for dtype in TYPES:
            for side, folder in sides.items():
                seen[dtype][side].append(turn(folder, dtype))
    found: dict[str, Any] = {"commits": {side: commit(folder) for side, folder in sides.items()}, "parts": {}}
    for dtype, own in seen.items():
        for part in own["after"][0]:
            speeds = {side: [round(one[part], 1) for one in each] for side, each in own.items()}
            pairs = [after / before for before, after in zip(speeds["before"], speeds["after"], strict=True)]
            middle = round(statistics.median(pairs), 3)
            found["parts"][f"{part}, {dtype}"] = speeds | {
                "ratio": [middle, round(min(pairs), 3), round(max(pairs), 3)]
            }
    print({name: part["ratio"] for name, part in found["parts"].items()})
    write_json(HERE.with_suffix(".json"), found | {"provenance": provenance.provenance()})


if __name__ == "__main__":
    main()
