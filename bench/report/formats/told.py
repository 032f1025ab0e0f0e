"""What every shared format says of a run, read from its record once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from bench.backends.models import LOCAL, PACKAGED
from bench.core.content import Message, digest
from bench.core.ranges import PROJECT
from bench.data.layout import HUB
from bench.results import dialogues
from bench.results.runs import Run, by_question, withheld

OWN = "local"
"""Whose a model or a data set is that has no place on the hub."""
UNKNOWN = "unknown"
"""Whose a model is that a server answers with under a name without an owner."""


@dataclass(frozen=True)
class Score:
    """Mean of an axis with its 95 % interval, where there is one; `units` were resampled."""

    axis: str
    mean: float
    low: float | None
    high: float | None
    units: int

    @property
    def interval(self) -> str:
        return "" if self.low is None else f"{self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True)
class Told:
    """A run as others are told of it."""

    run: Run

    @property
    def data(self) -> Mapping[str, Any]:
        return self.run.data

    @property
    def spec(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.data["spec"]
        return found

    @property
    def scale(self) -> float:
        return float(self.data.get("scale", 2.0))

    @property
    def when(self) -> datetime:
        """When the record was written: its file's time, for it holds none itself."""
        return datetime.fromtimestamp(int(self.run.path.stat().st_mtime), UTC)

    @property
    def hosted(self) -> bool:
        """Whether a server answered, which does not say with what."""
        return bool(self.spec["backend"] == "openai")

    @property
    def on_hub(self) -> bool:
        """Whether `model` names a place on the hub."""
        return not self.hosted and not self.model.startswith(f"{OWN}/")

    @property
    def model(self) -> str:
        """The bare model's id on the hub, `owner/name`; `local/name` where it has none. A hosted one's is as its server
        names it, `openai/name` where that is OpenAI's own, else `unknown/name`."""
        name, source = self.spec["model"], self.data.get("source", LOCAL)
        asked = self.data.get("asked", {}).get("model", "")
        if self.hosted:
            asked = str(asked).removeprefix("openai:") or str(name)
            if re.fullmatch(r"[\w.-]+/[\w.:-]+", asked):
                return asked
            usual = self.spec["weights"] == digest("endpoint", asked, "")  # at no address but OpenAI's
            return f"{'openai' if usual else UNKNOWN}/{name}"
        if source != LOCAL and name in PACKAGED:
            return PACKAGED[name].hub
        on_hub = source != LOCAL and re.fullmatch(rf"[\w.-]+/{re.escape(name)}", asked)
        return asked if on_hub else f"{OWN}/{name}"

    @property
    def data_set(self) -> str:
        """The data's id on the hub; "" where it is not from there."""
        return HUB.get(self.spec["task_params"].get("data", ""), "")

    @property
    def version(self) -> str:
        """This program's, under the name it had then."""
        found = self.versions
        return found.get(PROJECT) or found.get("steerbench") or "unknown"

    @property
    def versions(self) -> dict[str, str]:
        found = self.data.get("provenance", {}).get("versions", {})
        return {name: version for name, version in found.items() if version}

    @cached_property
    def scores(self) -> list[Score]:
        """Of each axis that has one; intervals are cut to the scale, as in tables."""
        found = []
        for axis in self.data["axes"]:
            mean, low, high = (self.data["metrics"].get(f"{axis}{part}") for part in ("", "_low", "_high"))
            if mean is not None:
                low, high = (None, None) if None in (low, high) else (max(low, 0.0), min(high, self.scale))
                units = sum(value is not None for value in self.run.scores(axis).values())
                found.append(Score(axis, mean, low, high, units))
        return found

    @property
    def resampled(self) -> str:
        """How intervals were made, and over what."""
        named = any("unit" in row for row in self.data["samples"])
        return f"bootstrap-t over {'questions' if named or by_question(self.data) else 'concepts'}"

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """The test questions; of an answer that is not given to others its digest and first words, as `withheld`."""
        rows = withheld(self.data["samples"], self.data)
        # A judge quotes what it rates: what it said goes with the answer.
        return [
            {k: v for k, v in row.items() if k not in ("said", "reasons")} if "withheld" in row else row for row in rows
        ]

    def prompt(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """What stood around a sample's question."""
        return self.run.prompt(sample["concept"])

    def chat(self, sample: Mapping[str, Any]) -> list[Message]:
        """What was asked, up to the question: earlier turns of a dialogue, and the question as the data has it."""
        asked = [("user", sample["instruction"])] if "instruction" in sample else []
        return [*self._earlier.get(sample["id"], ()), *asked]

    @cached_property
    def _earlier(self) -> dict[str, list[Message]]:
        """sample -> the turns before it, of dialogues."""
        found: dict[str, list[Message]] = {}
        given = {sample["id"]: sample.get("text", sample.get("withheld", "")) for sample in self.samples}
        for own in dialogues.of(self.run).values():
            for turns in own:
                chat: list[Message] = []
                for sample in turns:
                    found[sample["id"]] = list(chat)
                    chat += [("user", sample["instruction"]), ("assistant", given[sample["id"]])]
        return found

    @property
    def judge_params(self) -> dict[str, Any]:
        """What decides the judge's ratings, without where it is asked."""
        return {name: value for name, value in self.spec["judge_params"].items() if name != "address"}


def rated(sample: Mapping[str, Any]) -> dict[str, float]:
    """The ratings that a sample has."""
    return {axis: value for axis, value in sample["ratings"].items() if value is not None}


def text(value: Any) -> str:
    """A value where only text may stand."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def texts(**values: Any) -> dict[str, str]:
    """Details by name as text, without those that say nothing."""
    return {name: text(value) for name, value in values.items() if value not in (None, "", {}, [])}
