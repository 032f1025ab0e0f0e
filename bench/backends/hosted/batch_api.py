"""The Batch API: all requests as one file, answered within a day at half the price.

Invariant: which batch holds which request is on the disk before waiting begins, so that the same command
picks a running batch up and pays for nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from bench.backends.hosted.answers import Reply, read
from bench.backends.hosted.backend import OF_THE_TEXT, OpenAIBackend
from bench.backends.hosted.pool import Failure
from bench.core.content import digest
from bench.core.errors import StopRun
from bench.core.paths import cache_root
from bench.core.rows import Rows
from bench.core.values import Request

ENDPOINT = "/v1/chat/completions"
MOST = 50_000
"""Requests one batch takes."""
BYTES = 190 * 2**20
"""Size of one batch's file; the service takes 200 MB."""
OVER = ("completed", "failed", "expired", "cancelled")


class BatchBackend(OpenAIBackend):
    """`OpenAIBackend` through the Batch API: looks for the answers every `poll` seconds."""

    share = 0.5

    def __init__(self, *args: Any, poll: float = 30.0, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.poll = poll
        self._held: dict[str, float] = {}

    @cached_property
    def calls(self) -> Any:
        """The client with its own retries: few calls, and none of them is paid for."""
        return self.client.with_options(max_retries=self.asking.retries)

    def attempt(self, requests: Sequence[Request], alternatives: int = 0) -> Iterator[tuple[int, Reply | Failure]]:
        """As `OpenAIBackend.attempt`; a request that its batch did not answer is a passing failure."""
        import openai

        bodies = [self.body(request, alternatives) for request in requests]
        names: dict[str, list[int]] = {}
        for i, body in enumerate(bodies):
            names.setdefault(digest("batch", self.base_url, body), []).append(i)
        begun = time.monotonic()
        kept = Rows(cache_root() / "rows" / "batches")
        try:
            short = self._submit(kept, {name: bodies[places[0]] for name, places in names.items()})
            for batch in dict.fromkeys(kept.get(name) for name in names if kept.get(name)):
                for name, found in self._collect(kept, batch, [n for n in names if kept.get(n) == batch]):
                    for i in names[name]:
                        yield i, found
            if short is not None:
                raise short
        except openai.OpenAIError as error:
            raise StopRun(f"{self.where}: batch: {self._line(str(error))}") from None
        finally:
            kept.close()
            self.usage.add(seconds=time.monotonic() - begun)

    def _submit(self, kept: Rows, bodies: dict[str, dict[str, Any]]) -> StopRun | None:
        """Send what no batch holds yet, as far as the money goes; returns what stopped it."""
        todo: list[tuple[str, bytes]] = []
        short = None
        for name, body in bodies.items():
            if not kept.get(name):
                try:
                    self.hold(self.most(body), waits=False)  # what is under way is this thread's own
                except StopRun as error:
                    short = error
                    break
                self._held[name] = self.most(body)
                line = json.dumps({"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body})
                todo.append((name, line.encode() + b"\n"))
        while todo:
            part: list[tuple[str, bytes]] = []
            size = 0
            while todo and len(part) < MOST and (not part or size + len(todo[0][1]) <= BYTES):
                size += len(todo[0][1])
                part.append(todo.pop(0))
            content = ("requests.jsonl", b"".join(line for _, line in part))
            file = self.calls.files.create(file=content, purpose="batch")
            made = self.calls.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
            for name, _ in part:
                kept.put(name, made.id)
        return short

    def _collect(self, kept: Rows, batch: str, names: Sequence[str]) -> Iterator[tuple[str, Reply | Failure]]:
        """Wait for one batch and read what it says of `names`; what it did not answer is free to be sent again."""
        import openai

        missing = dict.fromkeys(names, "its batch was lost")
        refused: set[str] = set()
        try:
            state = self.calls.batches.retrieve(batch)
            while state.status not in OVER:
                time.sleep(self.poll)
                state = self.calls.batches.retrieve(batch)
            files = [self.calls.files.content(f).text for f in (state.output_file_id, state.error_file_id) if f]
        except openai.NotFoundError:
            files, state = [], None
        if state is not None:
            errors = "; ".join(error.message or "" for error in (state.errors.data or [])) if state.errors else ""
            missing = dict.fromkeys(names, f"its batch has {state.status}{': ' + errors if errors else ''}")
        for line in "\n".join(files).split("\n"):
            try:
                row = json.loads(line)
                name, answer = row["custom_id"], row.get("response") or {}
                if name not in missing:
                    continue
                if answer.get("status_code") != 200:
                    missing[name] = str(row.get("error") or answer.get("body"))
                    if answer.get("status_code") in (400, 413, 422) and OF_THE_TEXT.search(missing[name]):
                        refused.add(name)
                    continue
                reply = read(answer["body"])
            except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
                continue  # a line that is torn says nothing; its request stays missing
            del missing[name]
            self._settle(name, self.paid(reply, self._held.get(name, 0.0)))
            yield name, self._clean(reply)
        for name, reason in missing.items():
            kept.put(name, "")
            self._settle(name, {})
            yield name, Failure(f"{self.where}: {self._line(reason)}", name not in refused)
        if state is not None and state.status == "failed" and len(missing) == len(names):
            raise StopRun(f"{self.where}: {self._line(missing[names[0]])}")

    def _settle(self, name: str, took: dict[str, float]) -> None:
        """Pay for a request of a batch: an earlier process may have held the money for it."""
        paid = took.get("dollars", 0.0) + took.get("dollars_unsure", 0.0)
        if name in self._held:
            self.purse.settle(self._held.pop(name), paid)
        else:
            self.purse.pay(paid)
        self.usage.begin(0.0)
        self.usage.end(0.0, **took)
