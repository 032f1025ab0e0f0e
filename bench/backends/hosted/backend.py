"""Any OpenAI-compatible chat endpoint, through the `openai` package: for judges, prompters and prompted targets.

Invariant: a request that failed is a `Failure` or an error, never an empty completion; the key and what an address
hides appear in no message, text or repr that leaves this module.
"""

from __future__ import annotations

import email.utils
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from bench.backends.hosted import address
from bench.backends.hosted.answers import Reply, read
from bench.backends.hosted.dialect import LIMITS, Dialect, words
from bench.backends.hosted.pool import Ended, Failure, PermanentError, RequestPool, TransientError
from bench.core.content import digest
from bench.core.errors import BenchError, StopRun, UsageError
from bench.core.interfaces import Backend
from bench.core.money import SpendingLimit, Usage, price_of
from bench.core.registry import backend
from bench.core.values import Completion, Request, Sampling

PASSING = (408, 409, 425, 429)
"""Statuses below 500 that may pass."""
OF_THE_TEXT = re.compile(
    r"context.?(length|window)|content.?(filter|policy|management)|too (long|large)|could not finish", re.I
)
"""Words by which a server says that it is this text it cannot take, not the request as such."""
OVERHEAD = 64
"""Tokens of a chat template, at most."""
QUESTION = "Say: yes"
"""What an endpoint is asked before a run spends anything on it."""
FIRST_ANSWER = 3.0
"""Seconds to wait for the answer to a first short question."""
SECRET = 8
"""Characters a secret has at least; servers of one's own take `x` or `EMPTY`."""


@backend("openai")
class OpenAIBackend(Backend):
    """Chat completions of `model` at `base_url` (default: `$OPENAI_BASE_URL`, else OpenAI's own).

    Applies prompt edits only. `workers` requests are under way at once. 429, 5xx, time-outs (`timeout`
    seconds of silence), dropped connections and torn answers are tried again `retries` times with jittered
    back-off, as long as the server asks. `price` is (in, out) in dollars per million tokens where the
    listed one is not to be used, and `purse` what may be spent.
    """

    can = frozenset({"prompt"})
    share = 1.0
    """Of the list price that is paid."""

    def __init__(
        self,
        model: str,
        base_url: str = "",
        workers: int = 8,
        retries: int = 5,
        timeout: float = 120.0,
        price: Sequence[float] = (),
        purse: SpendingLimit | None = None,
    ) -> None:
        if workers < 1 or retries < 0 or timeout <= 0:
            raise ValueError("workers is at least 1, retries at least 0, timeout more than 0 seconds")
        self.model = model
        self.base_url = address.checked(base_url or os.environ.get("OPENAI_BASE_URL", "").strip())
        self.timeout = timeout
        self.price = price_of(model, price)
        self.purse = purse or SpendingLimit()
        self.usage = Usage()
        self.asking: RequestPool[Reply] = RequestPool(workers, retries)
        self.dialect = Dialect(left_out=self.usage.left_out)

    @property
    def layers(self) -> int:
        """0: it is not known, and nothing can be done to them."""
        return 0

    @property
    def address(self) -> str:
        """Host, port and path of the server, "" for OpenAI's own: part of what a rating is (`address.name`)."""
        return address.name(self.base_url)

    @property
    def where(self) -> str:
        """The model and its address without credentials, for messages."""
        scheme = self.base_url.partition("//")[0]
        return f"{self.model} at {f'{scheme}//{self.address}' if self.address else 'api.openai.com'}"

    @cached_property
    def client(self) -> Any:
        try:
            import openai
        except ImportError as error:
            raise UsageError("openai:MODEL needs the openai package: pip install 'steer-or-prompt[openai]'") from error
        if not self._key and not self.base_url:
            raise UsageError("openai:MODEL needs OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own")
        if odd := next((i for i, char in enumerate(self._key, 1) if not "!" <= char <= "~"), 0):
            raise UsageError(f"OPENAI_API_KEY: no header takes its character {odd}: copy it anew")
        return openai.OpenAI(
            api_key=self._key or "none", base_url=self.base_url or None, max_retries=0, timeout=self.timeout
        )

    @property
    def _key(self) -> str:
        return os.environ.get("OPENAI_API_KEY", "").strip()

    def probe(self) -> None:
        """Ask for one token: raises where the key, the model or the address is wrong. A server that is slow or busy
        passes."""
        _ = self.client
        import openai

        one = OpenAIBackend(self.model, self.base_url, timeout=FIRST_ANSWER, purse=self.purse)
        one.price, one.dialect = self.price, self.dialect
        try:
            one._ask(Request((("user", QUESTION),), None, Sampling(1, 0.0, 0)), 0)
        except (TransientError, PermanentError) as error:
            met = error.__context__
            if isinstance(met, openai.APIConnectionError) and not isinstance(met, openai.APITimeoutError):
                raise BenchError(f"no connection to {error}") from None
        finally:
            paid = ("prompt_tokens", "tokens", "dollars", "dollars_unsure")
            self.usage.begin(0.0)
            self.usage.end(0.0, **{name: one.usage.counts[name] for name in paid})

    def scrubbed(self, text: str) -> str:
        """`text` without the key and the address's secrets: some servers echo them. What is shorter than any secret
        stays."""
        for secret in (self._key, *address.secrets(self.base_url)):
            text = text.replace(secret, "[key]") if len(secret) >= SECRET else text
        return text

    def fingerprint(self) -> str:
        return digest("openai", self.model, self.base_url)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """All answers, or BenchError after the last where one request has none."""
        failed: Failure | None = None
        for i, found in self.attempt(requests):
            if isinstance(found, Failure):
                failed = failed or found
            else:
                yield i, found.completion
        if failed is not None:
            raise BenchError(failed.reason)

    def attempt(self, requests: Sequence[Request], alternatives: int = 0) -> Iterator[tuple[int, Reply | Failure]]:
        """An answer or a `Failure` for each request, in any order; `alternatives` asks for so many per token.

        Raises `StopRun` for what no retry mends (a key that is refused, an unknown model, no money) and for a
        server that is down, after everything that was under way.
        """
        _ = self.client  # made before the threads that share it
        begun = time.monotonic()
        try:
            yield from self.asking.all(lambda i: self._ask(requests[i], alternatives), len(requests))
        finally:
            self.usage.add(seconds=time.monotonic() - begun)

    def body(self, request: Request, alternatives: int = 0) -> dict[str, Any]:
        """The request as the endpoint takes it. Raises BenchError for what it would leave out: a prefill, and all of a
        steering but its prompt."""
        if request.prefill:
            raise BenchError(f"{self.where}: a chat endpoint writes an answer whole, and none from its prefill on")
        prompt = (("user", request.prompt),) if isinstance(request.prompt, str) else request.prompt
        if request.steering is not None:
            if lacking := sorted(request.steering.needs - self.can):
                raise BenchError(f"{self.where}: a chat endpoint cannot {', '.join(lacking)}")
            prompt = request.steering.prompt.apply(prompt, request.turns)
        asked = {"logprobs": True, "top_logprobs": alternatives} if alternatives else {}
        body = {
            "model": self.model,
            # Half of a surrogate pair has no UTF-8, and a steered model may write one.
            "messages": [{"role": r, "content": c.encode("utf-8", "replace").decode()} for r, c in prompt],
            "temperature": request.sampling.temperature,
            LIMITS[0]: request.sampling.max_new_tokens,
            "seed": request.seed % 2**31,
        }
        return self.dialect.said(body | asked)

    def most(self, body: Mapping[str, Any]) -> float:
        """Dollars a request can cost at most: no tokenizer makes more tokens than there are bytes.

        Where a server lets no answer be limited, there is no limit of money either (`Dialect.learn`).
        """
        if self.price is None:
            return 0.0
        read = sum(len(m["content"].encode()) + OVERHEAD for m in body["messages"])
        written = body.get("max_tokens") or body.get("max_completion_tokens") or 0
        return self.share * self.price.of(read, written)

    def hold(self, most: float, waits: bool = True) -> None:
        """Set money aside, waiting for what is under way where it may leave enough, or raise StopRun."""
        over = self.asking.over
        if not self.purse.hold(most, lambda: waits and not over.is_set()):
            if over.is_set():
                raise Ended
            raise StopRun(
                f"--max-cost ${self.purse.limit:g} could be exceeded by the next request to {self.model} "
                f"(${self.purse.gone:.4f} gone); go on with a larger --max-cost"
            )

    def _ask(self, request: Request, alternatives: int) -> Reply:
        """One answer; a request that the server refuses to take as it is said is said another way, as long as it
        names what it refuses."""
        while True:
            body = self.body(request, alternatives)
            most = self.most(body)
            self.hold(most)
            found = self._send(body, most)
            if found is not None:
                return found

    def _send(self, body: dict[str, Any], most: float) -> Reply | None:
        """One try at the cost of what is held for it; None where the dialect has learnt from it."""
        import openai

        if self.asking.over.is_set():
            self.purse.settle(most, 0.0)
            raise Ended
        paid, took = 0.0, dict[str, float]()
        self.usage.begin(most)
        try:
            # Not chat.completions.create: its typed request and answer cost a third of the client's time,
            # and a server of one's own may answer in a shape of its own.
            answer = self.client.post("/chat/completions", cast_to=object, body=body)
            reply = read(json.loads(answer) if isinstance(answer, str) else answer)
            took = self.paid(reply, most)
            paid = took["dollars"] + took["dollars_unsure"]
            return self._clean(reply)
        except openai.APIStatusError as error:
            if self._adapted(error, body):
                return None
            took = {"failed_tries": 1}
            raise self._fault(error) from None
        except openai.APIConnectionError as error:  # time-outs among them
            paid, took = most, {"failed_tries": 1, "dollars_unsure": most}
            raise TransientError(f"{self.where}: {self._line(str(error))}") from None
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
            paid, took = most, {"failed_tries": 1, "dollars_unsure": most}
            reason = f"an answer that cannot be read ({type(error).__name__}: {error})"
            raise TransientError(f"{self.where}: {self._line(reason)}") from None
        except _hopeless() as error:
            raise StopRun(f"{self.where}: {self._line(str(error))}") from None
        except BaseException:  # it was sent, and nobody waits for the answer
            paid, took = most, {"dollars_unsure": most}
            raise
        finally:
            self.purse.settle(most, paid)
            self.usage.end(most, **took)

    def paid(self, reply: Reply, most: float) -> dict[str, float]:
        """What an answer took, by the names of `Usage`. Where the server does not say, or says what cannot be, it may
        be `most`."""
        if (took := reply.taken) is None:
            return {"answers": 1, "dollars": 0.0, "dollars_unsure": most}
        dollars = self.share * self.price.of(took.read, took.written, took.cached) if self.price else 0.0
        return {
            "answers": 1,
            "prompt_tokens": took.read,
            "cached_tokens": took.cached,
            "tokens": took.written,
            "dollars": dollars,
            "dollars_unsure": 0.0,
        }

    def _clean(self, reply: Reply) -> Reply:
        """A reply without the key; counts the name that the server answered with."""
        self.usage.served.add(self.scrubbed(reply.model or self.model))
        return replace(reply, completion=replace(reply.completion, text=self.scrubbed(reply.completion.text)))

    def _adapted(self, error: Any, body: Mapping[str, Any]) -> bool:
        """Whether the refused request can be said another way: reasoning models and some servers differ."""
        if error.status_code not in (400, 422) or OF_THE_TEXT.search(words(error)):
            return False
        return self.dialect.learn(error, body, self.where, limited=bool(self.purse.limit))

    def _fault(self, error: Any) -> Exception:
        """What a status means: it may pass, it concerns this text alone, or it ends the asking."""
        status, said = error.status_code, words(error)
        reason = f"{self.where}: {self._line(said)}"
        if (status in PASSING or status >= 500) and error.code != "insufficient_quota":
            return TransientError(reason, retry_after(error.response.headers))
        if status in (400, 413, 422) and OF_THE_TEXT.search(f"{error.code} {said}"):
            return PermanentError(reason)
        return StopRun(reason)

    def _line(self, text: str) -> str:
        line = self.scrubbed(text).strip().split("\n")[0]
        return line if len(line) <= 300 else line[:300] + " …"


def _hopeless() -> tuple[type[Exception], ...]:
    """What openai raises where asking on is of no use, and its HTTP library for an address that nothing can be sent to:
    that is httpx below version 3, and httpx2 from there on."""
    import openai

    libraries = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    return (openai.OpenAIError, *(one.InvalidURL for one in libraries if one))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a server asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None
