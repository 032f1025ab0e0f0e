"""The shipped plain questions with plain answers: what a control technique should leave as it is."""

from __future__ import annotations

import json

from bench.core.shipped import home
from bench.core.values import Example


def neutral() -> list[Example]:
    """All of them; no method is fitted on one."""
    path = home("tasks") / "data" / "neutral.json"
    return [Example(row["instruction"], row["response"]) for row in json.loads(path.read_text("utf-8"))]
