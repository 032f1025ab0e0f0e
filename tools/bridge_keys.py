"""Say that committed results still are what the present code makes, where code changed and no number did.

`python tools/bridge_keys.py REV` writes `results/keys.toml`: for each committed run and opinion the key it was written
with, and the key that the present code gives it. Who runs this claims that nothing between `REV` and the working tree
changes a result. It is refused where a file does not have the key that the code at `REV` gives it, and where it was
made with other versions of the engine's packages than those installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.core.definitions import minor
from bench.results.runs import KEYS
from bench.run.identity import keys

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
HEAD = """# Written by tools/bridge_keys.py, where code changed and no number did.
# "file" = [the code key it was written with, the key that the present code gives it]

"""
PACKAGES = ("torch", "transformers")
BY_FILES = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from bench.code import code_digest, code_of
from bench.plan import method
from bench.registry import get

root, found = Path(sys.argv[1]), {}
for path in sorted(root.glob("*/*/*/*.json")):
    data = json.loads(path.read_text("utf-8"))
    if path.name == "run.json":
        spec = data["spec"]
        name, params, judge = spec["method"], spec["method_params"], spec["judge"].partition(":")[0]
        made = method(name, params if set("+(") & set(name) else {name: params})
        task, rater = object.__new__(get("task", spec["task"])), object.__new__(get("judge", judge)) if judge else None
        given = code_of(SimpleNamespace(task=task, judge=rater), made)
    elif path.name.startswith("judged-"):
        given = code_digest(get("judge", data["judge"].partition(":")[0]).__module__)
    else:
        continue
    found[path.relative_to(root).as_posix()] = data["code"], given
print(json.dumps(found))
"""
"""The rule of revisions before keys were of definitions: what `bench.run.identity` there said of every file."""


def keys_at(revision: str) -> dict[str, list[str]]:
    """file -> [the key it has, the key that the code gives it], as the program at `revision` says."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", folder, revision], check=True)
        try:
            own = Path(folder) / "tools" / "bridge_keys.py"
            words = [own] if own.is_file() else ["-c", BY_FILES, f"{folder}/results"]
            asked = subprocess.run(
                [sys.executable, *words],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": folder},
                stdout=subprocess.PIPE,
                check=True,
            )
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", folder], check=True)
    found: dict[str, list[str]] = json.loads(asked.stdout)
    return found


def bridge(revision: str) -> list[str]:
    """Write the aliases; or say why not, a line a file."""
    before, after = keys_at(revision), keys(RESULTS)
    refused, lines = [], []
    for file, (known, given) in before.items():
        data = json.loads((RESULTS / file).read_text("utf-8"))
        made_with = data["provenance"]["versions"]
        if known != given:
            refused.append(f"{file}: {revision} gives it the key {given}, and it has {known}")
        for name in PACKAGES:
            if minor(name) != f"{name} {'.'.join(made_with[name].split('.')[:2])}":
                refused.append(f"{file}: made with {name} {made_with[name]}, and {minor(name)} is installed")
        if data["code"] != after[file][1]:
            lines.append(f'"{file}" = ["{data["code"]}", "{after[file][1]}"]\n')
    if not refused:
        (RESULTS / KEYS).write_text(HEAD + "".join(lines), "utf-8")
    return refused


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(json.dumps(keys(RESULTS)))
        sys.exit(0)
    problems = bridge(sys.argv[1])
    print("\n".join(problems) or f"wrote {(RESULTS / KEYS).relative_to(ROOT)}", file=sys.stderr)
    sys.exit(1 if problems else 0)
