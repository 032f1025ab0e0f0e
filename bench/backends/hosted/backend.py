"""Any OpenAI-compatible chat endpoint, through the `openai` package: for judges and prompters.

Invariant: a request that failed is a `Failure` or an error, never an empty completion; the key appears in
no message, text or repr that leaves this module.
"""

from __future__ import annotations

import email.utils
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.backends.hosted.pool import Failure, PermanentError, RequestPool, TransientError
from bench.core.content import digest
from bench.core.errors import BenchError, StopRun, UsageError
from bench.core.interfaces import Backend
from bench.core.money import SpendingLimit, Usage, price_of
from bench.core.registry import backend
from bench.core.values import Completion, Request, Sampling

PASSING = (408, 409, 425, 429)
"""Statuses below 500 that may pass."""
OF_THE_TEXT = re.compile(r"context.?(length|window)|content.?(filter|policy|management)|too (long|large)", re.I)
"""Words by which a server says that it is this text it cannot take, not the request as such."""
OVERHEAD = 64
"""Tokens of a chat template, at most."""
QUESTION = "Say: yes"
"""What an endpoint is asked before a run spends anything on it."""
FIRST_ANSWER = 3.0
"""Seconds to wait for the answer to a first short question."""
SECRET = 8
"""Characters a secret has at least; servers of one's own take `x` or `EMPTY`."""


@dataclass(frozen=True)
class Reply:
    """A completion and, where they were asked for and came, its tokens with the alternatives to each.

    `likely[t]` is (token, {alternative: log-probability}), the token itself among the alternatives.
    """

    completion: Completion
    likely: tuple[tuple[str, Mapping[str, float]], ...] = ()


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
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL", "")
        self.timeout = timeout
        self.price = price_of(model, price)
        self.purse = purse or SpendingLimit()
        self.usage = Usage()
        self.asking: RequestPool[Reply] = RequestPool(workers, retries)
        self._limit = "max_tokens"
        self._logprobs = True

    @property
    def where(self) -> str:
        """The model and its address without credentials, for messages."""
        return f"{self.model} at {re.sub(r'//[^/@]*@', '//', self.base_url) or 'api.openai.com'}"

    @cached_property
    def client(self) -> Any:
        try:
            import openai
        except ImportError as error:
            raise UsageError("openai:MODEL needs the openai package: pip install 'steer-or-prompt[openai]'") from error
        if not self._key and not self.base_url:
            raise UsageError("openai:MODEL needs OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own")
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
        one.price = self.price
        try:
            one._ask(Request((("user", QUESTION),), None, Sampling(1, 0.0, 0)), 0)
        except (TransientError, PermanentError) as error:
            met = error.__context__
            if isinstance(met, openai.APIConnectionError) and not isinstance(met, openai.APITimeoutError):
                raise BenchError(f"no connection to {error}") from None
        finally:
            paid = ("prompt_tokens", "tokens", "dollars", "dollars_unsure")
            self.usage.add(**{name: one.usage.counts[name] for name in paid})

    def scrubbed(self, text: str) -> str:
        """`text` without the key: some servers echo it. What is shorter than any secret stays."""
        return text.replace(self._key, "[key]") if len(self._key) >= SECRET else text

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

        Raises `Halted` for what no retry mends (a key that is refused, an unknown model, no money) and for a
        server that is down, after everything that was under way.
        """
        _ = self.client  # made before the threads that share it
        begun = time.monotonic()
        try:
            yield from self.asking.all(lambda i: self._ask(requests[i], alternatives), len(requests))
        finally:
            self.usage.add(seconds=time.monotonic() - begun)

    def body(self, request: Request, alternatives: int = 0) -> dict[str, Any]:
        """The request as the endpoint takes it. Raises BenchError for a prefill, which it would leave out."""
        if request.prefill:
            raise BenchError(f"{self.where}: a chat endpoint writes an answer whole, and none from its prefill on")
        prompt = (("user", request.prompt),) if isinstance(request.prompt, str) else request.prompt
        if request.steering is not None:
            prompt = request.steering.prompt.apply(prompt)
        asked = {"logprobs": True, "top_logprobs": alternatives} if alternatives and self._logprobs else {}
        return {
            "model": self.model,
            # Half of a surrogate pair has no UTF-8, and a steered model may write one.
            "messages": [{"role": r, "content": c.encode("utf-8", "replace").decode()} for r, c in prompt],
            "temperature": request.sampling.temperature,
            self._limit: request.sampling.max_new_tokens,
            "seed": request.seed % 2**31,
        } | asked

    def most(self, body: Mapping[str, Any]) -> float:
        """Dollars a request can cost at most: no tokenizer makes more tokens than there are bytes."""
        if self.price is None:
            return 0.0
        read = sum(len(m["content"].encode()) + OVERHEAD for m in body["messages"])
        written = body.get("max_tokens") or body.get("max_completion_tokens") or 0
        return self.share * self.price.of(read, written)

    def hold(self, most: float) -> None:
        """Set money aside, or raise `Halted`."""
        if not self.purse.hold(most):
            raise StopRun(
                f"--max-cost ${self.purse.limit:g} could be exceeded by the next request to {self.model} "
                f"(${self.purse.gone:.4f} gone); go on with a larger --max-cost"
            )

    def _ask(self, request: Request, alternatives: int) -> Reply:
        import openai

        body = self.body(request, alternatives)
        most = self.most(body)
        self.hold(most)
        paid = 0.0
        try:
            # Not chat.completions.create: its typed request and answer cost a third of the client's time,
            # and a server of one's own may answer in a shape of its own.
            answer = self.client.post("/chat/completions", cast_to=object, body=body)
            reply, paid = self.read(json.loads(answer) if isinstance(answer, str) else answer, most)
            return reply
        except openai.APIStatusError as error:
            if self._adapted(error, body):
                return self._ask(request, alternatives)
            raise self._fault(error) from None
        except openai.APIConnectionError as error:  # time-outs among them
            paid = most
            raise self._unanswered(str(error), most) from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            paid = most
            reason = f"an answer that cannot be read ({type(error).__name__}: {error})"
            raise self._unanswered(reason, most) from None
        except openai.OpenAIError as error:
            raise StopRun(f"{self.where}: {self._line(str(error))}") from None
        finally:
            self.purse.settle(most, paid)

    def _unanswered(self, reason: str, most: float) -> TransientError:
        """A try that may have been billed without an answer."""
        self.usage.add(failed_tries=1, dollars_unsure=most)
        return TransientError(f"{self.where}: {self._line(reason)}")

    def read(self, answer: Any, most: float) -> tuple[Reply, float]:
        """The reply in an answer's JSON and the dollars it cost; counts both.

        Raises ValueError, LookupError, TypeError or AttributeError for JSON of another shape.
        """
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text = self.scrubbed(choice["message"].get("content") or "")
        listed = (choice.get("logprobs") or {}).get("content") or []
        likely = tuple(
            (t["token"], {t["token"]: t["logprob"]} | {a["token"]: a["logprob"] for a in t.get("top_logprobs") or []})
            for t in listed
        )
        read, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        paid = self.share * self.price.of(read, written, cached) if self.price else 0.0
        self.usage.add(answers=1, prompt_tokens=read, cached_tokens=cached, tokens=written, dollars=paid)
        if not usage:  # it does not say, so it may be all
            self.usage.add(dollars_unsure=most)
            paid = most
        self.usage.served.add(self.scrubbed(str(answer.get("model") or self.model)))
        return Reply(Completion(text, written, read, finish=choice.get("finish_reason") or ""), likely), paid

    def _adapted(self, error: Any, body: Mapping[str, Any]) -> bool:
        """Whether the refused request can be said another way: reasoning models and some servers differ."""
        said = str(error)
        if error.status_code not in (400, 422):
            return False
        if "max_tokens" in body and "max_completion_tokens" in said:
            self._limit = "max_completion_tokens"
            return True
        if "logprobs" in body and "logprobs" in said:
            self._logprobs = False
            return True
        return False

    def _fault(self, error: Any) -> Exception:
        """What a status means: it may pass, it concerns this text alone, or it ends the asking."""
        status, said = error.status_code, str(error)
        reason = f"{self.where}: {self._line(said)}"
        self.usage.add(failed_tries=1)
        if (status in PASSING or status >= 500) and error.code != "insufficient_quota":
            return TransientError(reason, retry_after(error.response.headers))
        if status in (400, 413, 422) and OF_THE_TEXT.search(f"{error.code} {said}"):
            return PermanentError(reason)
        return StopRun(reason)

    def _line(self, text: str) -> str:
        line = self.scrubbed(text).strip().split("\n")[0]
        return line if len(line) <= 300 else line[:300] + " …"


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
