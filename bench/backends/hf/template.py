"""A model's chat template, tried before it is believed.

Templates drop a role without a word, take text in one form only, open a thought for the model, or write today's date.
Each is found out once for a model, by chats with a mark in every turn.

Invariant: what each turn says reaches the model once, and the same on every day; else the model is refused.
"""

from __future__ import annotations

import datetime
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from bench.core.content import Message
from bench.core.errors import BenchError, UsageError, said
from bench.core.spoken import closing

DAY = datetime.datetime(2024, 7, 26, 12, 0)
"""What a template that asks is told the time to be: the date that Llama 3's fall back to."""
OTHER_DAY = datetime.datetime(2031, 1, 2, 3, 4)
SWITCHES = ("enable_thinking", "thinking")
"""Names by which templates take whether the model is to think first."""
MARKS = ("Qorv", "Zelm", "Wuxt", "Hjaf", "Pymd")
CHATS: tuple[tuple[Message, ...], ...] = (
    (("user", MARKS[0]),),
    (("system", MARKS[0]), ("user", MARKS[1])),
    (("user", MARKS[0]), ("assistant", MARKS[1]), ("user", MARKS[2])),
    (("system", MARKS[0]), ("user", MARKS[1]), ("assistant", MARKS[2]), ("user", MARKS[3])),
)
"""The shapes of chat that tasks and prompt edits make."""


@dataclass(frozen=True)
class Template:
    """How chats are said to one model. `apply` is its tokenizer's, with a template or without one (None)."""

    apply: Callable[..., str] | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the template is given beside the chat."""
    parts: bool = False
    """Whether a turn's content is a list of parts."""
    merges: bool = False
    """Whether a system message goes before the first user turn's text: the template has no place for one."""
    closing: str = ""
    """What closes the thought that the template opens for the model."""
    dated: bool = False
    """Whether the template writes the date, which is then `DAY` on every day."""

    def render(self, messages: Sequence[Message], answer: bool = True, day: datetime.datetime = DAY) -> str:
        """The chat as text, up to where the assistant begins to speak (`answer`). Raises TemplateError."""
        if self.apply is None:
            return "\n".join(content for _, content in messages) + "\n"
        if self.merges:
            messages = merged(messages)
        turns = [{"role": r, "content": [{"type": "text", "text": c}] if self.parts else c} for r, c in messages]
        text = self.apply(
            turns,
            tokenize=False,
            add_generation_prompt=answer,
            **{"strftime_now": day.strftime, "date_string": day.strftime("%d %b %Y")} | dict(self.arguments),
        )
        return text + self.closing if answer else text

    @property
    def opens(self) -> str:
        """What stands before an answer: where the assistant's turn begins."""
        whole, without = (self.render(CHATS[0], answer) for answer in (True, False))
        return whole[len(without) :] if whole.startswith(without) else whole.rpartition(MARKS[0])[2]

    @property
    def channels(self) -> str:
        """What a template writes between the opening of the assistant's turn and the answer: a model that is asked for
        it (harmony's channels) writes it itself."""
        if self.apply is None:
            return ""
        said = self.render((*CHATS[0], ("assistant", MARKS[1])), answer=False)
        before, asked = said.partition(MARKS[1])[0], self.render(CHATS[0]).removesuffix(self.closing)
        return before[len(asked) :] if before.startswith(asked) else ""

    def closes(self) -> list[str]:
        """What a template puts after an answer, where it ends the chat and where another turn follows."""
        if self.apply is None:
            return []
        last = self.render((*CHATS[0], ("assistant", MARKS[1])), answer=False).partition(MARKS[1])[2]
        between = self.render(CHATS[2], answer=False).partition(MARKS[1])[2].partition(MARKS[2])[0]
        return [last] if self.channels.strip() else [last, between]


def merged(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The chat with its system message before the text of the first user turn."""
    if len(messages) < 2 or messages[0][0] != "system":
        return tuple(messages)
    (_, system), (role, text), *rest = messages
    return (role, f"{system}\n\n{text}"), *rest


def learn(tokenizer: Any, name: str, folder: Path, arguments: Mapping[str, Any]) -> Template:
    """How chats are said to the model `name`, whose files are in `folder`; `arguments` are the user's own.

    Raises BenchError where some turn is lost in every way that is known.
    """
    found = _named(tokenizer, name) or _of_a_processor(folder)
    if not found:
        if arguments:
            raise UsageError(f"{name} has no chat template to take {', '.join(arguments)}")
        return Template(None)

    def apply(turns: Any, **given: Any) -> str:
        text: str = tokenizer.apply_chat_template(turns, chat_template=found, **given)
        return text

    reasons: dict[str, None] = {}
    for parts, merges in itertools.product((False, True), repeat=2):
        template = Template(apply, arguments, parts, merges)
        if not (reason := lost(template)):
            break
        reasons[reason] = None
    else:
        raise BenchError(f"the chat template of {name} {next(iter(reasons))}: mend its chat_template.jinja")
    if unknown := sorted(set(arguments) - set(re.findall(r"\w+", found))):
        raise UsageError(f"the chat template of {name} takes no {unknown[0]!r}")
    template = replace(template, dated=any(template.render(c) != template.render(c, day=OTHER_DAY) for c in CHATS))
    return _thoughtless(template, arguments)


def _named(tokenizer: Any, name: str) -> str:
    """The tokenizer's template; where it has several, the one named default."""
    found = tokenizer.chat_template
    if not isinstance(found, dict):
        return found or ""
    if "default" not in found and len(found) > 1:
        listed = ", ".join(sorted(found))
        raise BenchError(f"{name} has chat templates {listed}, and none named default: write chat_template.jinja")
    return str(found.get("default") or next(iter(found.values()), ""))


def _of_a_processor(folder: Path) -> str:
    """The template that older models of texts and images keep with their processor."""
    try:
        return str(json.loads((folder / "chat_template.json").read_text("utf-8"))["chat_template"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def lost(template: Template) -> str:
    """What a template does to the turns of a chat, beside saying each once; "" where it says each once."""
    for chat in CHATS:
        try:
            text = template.render(chat)
        except (TemplateError, TypeError, ValueError, AttributeError, KeyError) as error:
            return f"refuses a chat of {' and '.join(dict(chat))} ({said(error)})"
        for role, mark in chat:
            if text.count(mark) != 1:
                return f"says what the {role} says {text.count(mark)} times"
        # A system message may stand before the last user turn, as in some of Mistral's.
        places = [text.index(mark) for role, mark in chat if role != "system"]
        if places != sorted(places):
            return "changes the order of the turns"
    return ""


def _thoughtless(template: Template, arguments: Mapping[str, Any]) -> Template:
    """The template without the thought that it opens or lets the model open, unless the user asked for one: a short
    answer would be all thought."""
    for switch in SWITCHES:
        without = replace(template, arguments=dict(template.arguments) | {switch: False})
        if switch not in arguments and any(without.render(c) != template.render(c) for c in CHATS):
            template = without
    asked = any(arguments.get(switch) for switch in SWITCHES)
    close = "" if asked else closing(template.opens)
    return replace(template, closing=f"\n{close}\n\n") if close else template
