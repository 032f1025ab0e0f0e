"""Text to token ids and back: a model's tokenizer under its chat template.

Invariant: what every chat begins with is no part of what a read covers; a prompt edit is in the text before it is
tokenized, so that an edited prompt is encoded as any other.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import TemplateError

from bench.backends.hf.prefix import common
from bench.backends.hf.template import Template, learn
from bench.backends.models import Model
from bench.core.content import Message
from bench.core.errors import BenchError, said
from bench.core.interfaces import Prompted
from bench.core.spoken import of_thought, unclosed
from bench.core.steering import Mix, Prompt, Steering
from bench.core.values import Request

ENDLESS = 2**31 - 1


class Second(NamedTuple):
    """The other stream of a request that mixes two prompts: its prompt's ids, what acts in it, and how it is mixed."""

    ids: list[int]
    steering: Steering
    mix: Mix


def prompt_of(request: Request) -> Prompt:
    """The prompt edit that a request is asked under."""
    return request.steering.prompt if request.steering else Prompt()


class Chat:
    """A model's tokenizer and chat template."""

    def __init__(self, source: Model) -> None:
        self.source = source

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(
                self.source.path, local_files_only=True, trust_remote_code=self.source.trusted, padding_side="left"
            )
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            raise BenchError(f"cannot load the tokenizer of {self.source.name}: {said(error)}") from error

    @cached_property
    def template(self) -> Template:
        """How chats are said to the model."""
        return learn(self.tokenizer, self.source.name, self.source.path, self.source.chat)

    @cached_property
    def config(self) -> Any:
        """The model's configuration, of its text part."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(
            self.source.path, local_files_only=True, trust_remote_code=self.source.trusted
        ).get_text_config()

    @cached_property
    def context(self) -> int:
        """Tokens the model has positions for; as good as endless where its configuration names none."""
        return int(getattr(self.config, "max_position_embeddings", None) or ENDLESS)

    @cached_property
    def marks(self) -> dict[int, str]:
        """Tokens that are no text but mark a form: turns, ends, padding."""
        return {id: token.content for id, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer: what the model's files say, and what the template puts after an assistant's
        turn."""
        try:  # of all that a checkpoint says about writing answers, this alone is the model's
            found = json.loads((self.source.path / "generation_config.json").read_text("utf-8"))["eos_token_id"]
        except (OSError, ValueError, KeyError, TypeError):
            found = getattr(self.config, "eos_token_id", None)
        listed = found if isinstance(found, list) else [found]
        own = {token for token in (*listed, self.tokenizer.eos_token_id) if isinstance(token, int)}
        for text in self.template.closes():
            ids = self.continued(text.lstrip())
            own |= {*ids[:1]} & self.marks.keys()
        return frozenset(own)

    @cached_property
    def shared(self) -> list[int]:
        """Token ids that every chat without a system message of its own begins with."""
        one, two = (self.encode((("user", text),)) for text in ("1", "2"))
        shared = common(one, two)
        return one[:shared] if shared < min(len(one), len(two)) else []

    @cached_property
    def opening(self) -> list[int]:
        """Token ids that every chat with a system message of its own begins with."""
        one, two = (self.encode((("system", text), ("user", "x"))) for text in ("1", "2"))
        return one[: common(one, two)]

    @property
    def template_prefix(self) -> int:
        """How many those are, at least the sink."""
        return max(1, len(self.shared))

    def header(self, ids: Sequence[int]) -> int:
        """Tokens of a row that stand before its own words, at least the sink: neither edited nor read."""
        whole = list(ids[: len(self.shared)]) == self.shared
        return max(1, len(self.shared) if whole else common(ids, self.opening))

    def begins(self, ids: Sequence[int], request: Request, edit: Prompt) -> int:
        """The token of a request's row at which edits may begin: behind its header and its settled messages."""
        header = self.header(ids)
        if not request.settled or isinstance(request.prompt, str):
            return header
        chat = edit.apply(request.prompt, request.turns)
        settled = chat[: len(chat) - len(request.prompt) + request.settled]
        # Up to where the words of a next turn would stand, whatever they were.
        rows = [self.encode((*settled, ("user", text))) for text in ("1", "2")]
        return max(header, min(common(ids, row) for row in rows))

    @cached_property
    def stand_in(self) -> int:
        """A token that no chat begins with: it holds the place of what is put in as an embedding."""
        taken = {*self.shared, *self.opening}
        return next(token for token in itertools.count() if token not in taken)

    def opened(self, ids: Sequence[int], more: int) -> list[int]:
        """A row with `more` places after its header."""
        header = self.header(ids)
        return [*ids[:header], *[self.stand_in] * more, *ids[header:]]

    def render(self, messages: Sequence[Message]) -> str:
        """The chat as text, up to where the assistant begins to speak."""
        try:
            return self.template.render(messages)
        except TemplateError as error:
            roles = ", ".join(role for role, _ in messages)
            raise BenchError(f"the chat template of {self.source.name} refuses a chat of {roles}: {error}") from error

    def encode(self, prompt: Prompted, tail: str = "") -> list[int]:
        """Token ids of a chat (plus the beginning of the answer) or of a raw text."""
        if isinstance(prompt, str):
            return self._opened(prompt + tail)
        text = self.render(prompt)
        return (self._opened(text) if self.template.apply is None else self.continued(text)) + self.continued(tail)

    def _opened(self, text: str) -> list[int]:
        """Token ids of a text with what the tokenizer puts before it, and without what it puts behind: it goes on."""
        ids = list(self.tokenizer(text)["input_ids"])
        return ids[: len(ids) - self._behind]

    @cached_property
    def _behind(self) -> int:
        """How many tokens (an end, a separator) the tokenizer's post-processor puts behind a text."""
        whole, bare = (list(self.tokenizer("x", add_special_tokens=own)["input_ids"]) for own in (True, False))
        before = next((k for k in range(len(whole)) if whole[k : k + len(bare)] == bare), len(whole) - len(bare))
        return len(whole) - len(bare) - before

    def continued(self, text: str) -> list[int]:
        """Token ids of a text that goes on from another: nothing is put before it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    @cached_property
    def thought(self) -> str:
        """What the template opens of a thought for the model and leaves to it to close; "" where it lets it answer."""
        return unclosed(self.template.opens + self.template.closing) if self.template.apply else ""

    def answer(self, request: Request, ids: Sequence[int]) -> str:
        """What a model wrote to a request; a thought that the template opened is one from its mark on."""
        return ("" if isinstance(request.prompt, str) else self.thought) + self.text(ids)

    def text(self, ids: Sequence[int]) -> str:
        """What a model wrote, without the tokens that only mark its form; those around a thought stay."""
        kept = [id for id in ids if id not in self.marks or of_thought(self.marks[id])]
        return str(self.tokenizer.decode(kept))

    def steered(self, request: Request) -> list[int]:
        """Prompt ids of a request under its prompt edit."""
        return self._under(request, prompt_of(request))

    def against(self, requests: Sequence[Request]) -> dict[int, Second]:
        """The second stream of those of `requests` that mix two prompts, by their places."""
        steerings = {i: request.steering for i, request in enumerate(requests) if request.steering}
        return {
            i: Second(self._under(requests[i], mix.against), replace(one, embeds=()), mix)
            for i, one in steerings.items()
            if (mix := one.mixing)
        }

    def _under(self, request: Request, edit: Prompt) -> list[int]:
        prompt = request.prompt
        if isinstance(prompt, str) and (edit.system or edit.shots):
            raise BenchError("a plain text has no place for a system message or examples: ask it as a chat")
        prompt = edit.prefix + prompt + edit.suffix if isinstance(prompt, str) else edit.apply(prompt, request.turns)
        return self.encode(prompt, request.prefill)

    def readable(self, texts: Sequence[Prompted], tokens: int) -> tuple[list[list[int]], list[int], list[int]]:
        """Per text its ids, cut, the index where the answer begins, and how many ids a read skips."""
        rows: list[list[int]] = []
        starts: list[int] = []
        for text in texts:
            if isinstance(text, str) or text[-1][0] != "assistant":
                rows.append(self.encode(text))
                starts.append(len(rows[-1]))
            else:
                starts.append(len(self.encode(text[:-1])))
                rows.append(self.encode(text[:-1], text[-1][1]))
        skips = [self.header(row) for row in rows]
        if tokens:
            rows = [row[: skip + tokens] for row, skip in zip(rows, skips, strict=True)]
        if short := [i for i, (row, skip) in enumerate(zip(rows, skips, strict=True)) if len(row) <= skip]:
            raise BenchError(f"text {short[0]} has no token after the shared beginning: nothing to read")
        return rows, starts, skips
