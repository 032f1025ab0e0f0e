"""The shipped questions of a tiny capability set: what a steering should leave as it is.

Invariant: nothing is downloaded, and no method is fitted on one.
"""

from __future__ import annotations

import json

from bench.core.shipped import home

BASICS = "basics"
"""What the set is called among lm-eval's tasks."""
PATH = home("tasks") / "data" / "basics.jsonl"
"""Lines of `question`, `options` (the right one first) and `answer`, the place of the right one."""


def basics() -> list[dict[str, object]]:
    """All of them, in order."""
    return [json.loads(line) for line in PATH.read_text("utf-8").splitlines()]
