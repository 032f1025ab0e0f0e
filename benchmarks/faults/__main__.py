"""`python -m benchmarks.faults [KIND …] [--scale 0.1]`: every kind of fault, counted, into docs/reliability.md.

A kind is a module of this folder with a docstring whose first line is its title, and
`count(scale: float, seed: int) -> list[Count]`: `scale` 1 is what the committed table has, a smaller one a part of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import pkgutil
import random
import time
from pathlib import Path
from typing import Any

from bench.core.escape import head, row
from bench.core.store import write_json, write_whole

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIGURES = HERE.with_suffix(".json")
PAGE = ROOT / "docs" / "reliability.md"
INTRODUCTION = """# Reliability

Faults that were tried on purpose, and what they came to. `make faults` makes this page anew, each time with other
random places; a line's last column says what counts as wrong in it. The seed and the scale of a section are in
`benchmarks/faults.json`.
"""


def kinds() -> list[str]:
    """The modules that count a kind of fault."""
    names = [info.name for info in pkgutil.iter_modules([str(HERE)]) if not info.name.startswith("_")]
    return [name for name in names if hasattr(_module(name), "count")]


def _module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.faults.{name}")


def page(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [INTRODUCTION]
    for name in sorted(found):
        counts = found[name]["counts"]
        columns = head("what", "tried", "wrong", "what counts as wrong, what was seen")
        lines += [f"## {found[name]['title']}", "", *columns]
        lines += [row([c["what"], f"{c['tried']:,}", f"{c['wrong']:,}", c["note"]]) for c in counts]
        lines += [""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*kinds(), []], help="all of them where none is named")
    parser.add_argument("--scale", type=float, default=1.0, help="of the committed table's trials")
    parser.add_argument("--seed", type=int, default=None, help="of the random places [another each time]")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    for name in given.kinds or kinds():
        module, begun = _module(name), time.monotonic()
        counts = [dataclasses.asdict(count) for count in module.count(given.scale, seed)]
        title = str(module.__doc__).split("\n")[0].rstrip(".")
        found = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}  # now: kinds may be counted side by side
        found[name] = {"title": title, "scale": given.scale, "seed": seed, "counts": counts}
        found[name]["minutes"] = round((time.monotonic() - begun) / 60, 1)
        write_json(FIGURES, found)
        write_whole(PAGE, page(found).encode())
        print(f"{title}: {sum(c['tried'] for c in counts):,} tried, {sum(c['wrong'] for c in counts):,} wrong")


if __name__ == "__main__":
    main()
