"""How one endpoint wants to be asked, learnt from what it refuses.

Invariant: a field is left out after the server named it in refusing it, and never silently: it is said once, and is in
the record of what was asked (`Usage.left_out`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

OPTIONAL = ("temperature", "top_p", "seed", "top_logprobs", "logprobs", "max_completion_tokens", "max_tokens")
"""What a chat can be asked without; of two that are named, the first is meant."""
LIMITS = ("max_tokens", "max_completion_tokens", "")
"""Names of the most tokens of an answer, in the order they are tried; last goes the limit itself."""
TOGETHER = {"logprobs": ("logprobs", "top_logprobs"), "top_logprobs": ("logprobs", "top_logprobs")}
REFUSES = re.compile(
    r"support|unknown|unrecogni[sz]ed|unexpected|not (?:permitted|allowed|accepted|available)|extra|forbidden|invalid"
    r"|must be|only|deprecated|not take|no such|cannot be|incompatible|does not|doesn't",
    re.I,
)
"""Words of a refusal, where no place in it is reserved for the field's name."""


@dataclass
class Dialect:
    """What is left out for one endpoint, and what it calls the limit of an answer."""

    limit: str = LIMITS[0]
    left_out: set[str] = field(default_factory=set)

    def said(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request in this dialect; its limit stands under `max_tokens`."""
        found = {self.limit if name == LIMITS[0] else name: value for name, value in body.items()}
        return {name: value for name, value in found.items() if name and name not in self.left_out}

    def learn(self, error: Any, body: Mapping[str, Any], where: str, limited: bool) -> bool:
        """Whether a refused request can be said another way now. `limited`: the tokens of an answer must stay so."""
        name = next((name for name in _named(error) if name in body), "")
        if not name:
            return False
        if name in LIMITS:
            after = LIMITS[LIMITS.index(name) + 1]
            if not after and limited:
                return False
            if self.limit == name:
                self.limit = after
                if not after:
                    self._leave_out((LIMITS[0],), where)
            return True
        self._leave_out(TOGETHER.get(name, (name,)), where)
        return True

    def _leave_out(self, names: tuple[str, ...], where: str) -> None:
        if not self.left_out.issuperset(names):
            self.left_out.update(names)
            print(f"{where} takes no {' and '.join(names)}: asked without, as run.json says", file=sys.stderr)


def words(error: Any) -> str:
    """What a server said with a status: the client leaves out what is no JSON. A page says nothing."""
    body = getattr(error, "body", None)
    return f"{error} - {body.strip()}" if isinstance(body, str) and body.strip()[:1] not in ("", "<") else str(error)


def _named(error: Any) -> Iterator[str]:
    """The optional fields that a refusal names: in a place for it, else in its words."""
    found = [str(getattr(error, "param", "") or ""), *_places(getattr(error, "body", None))]
    if reserved := [name for name in OPTIONAL if name in found]:
        yield from reserved
    elif REFUSES.search(said := words(error)):
        yield from (name for name in OPTIONAL if re.search(rf"(?<![\w-]){name}(?![\w-])", said))


def _places(value: Any, depth: int = 0) -> Iterator[str]:
    """What stands under `param`, and in `loc` as FastAPI writes it, at any place of a refusal's JSON."""
    if depth > 8:
        return
    if isinstance(value, list):
        for each in value:
            yield from _places(each, depth + 1)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name == "param":
                yield str(each)
            elif name == "loc" and isinstance(each, list):
                yield from map(str, each)
            else:
                yield from _places(each, depth + 1)
