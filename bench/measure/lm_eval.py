"""lm-eval's model `bench`: any of its tasks on a steered model, prompt edit included.

Invariant: texts become tokens as in lm-eval's own `hf` model, so that without steering, or at c = 0, the
two agree; a steering that a request cannot hold is refused, never left out.

    import bench.lm_eval_model
    lm_eval.simple_evaluate("bench", {"steering": "ocean.safetensors", "coefficient": 1.5}, tasks=["arc_easy"])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bench import interchange
from bench.backends import devices
from bench.backends.hf.backend import HFBackend
from bench.backends.models import DEFAULT, resolve
from bench.core.content import Message, digest
from bench.core.errors import BenchError, UsageError
from bench.core.steering import Prompt, Steering
from bench.core.values import Request, Sampling

IGNORED = {"do_sample", "use_cache", "num_beams"}
"""Generation arguments that say nothing a `Sampling` does not (beams are checked to be one)."""


@register_model("bench")
class BenchLM(TemplateLM):  # type: ignore[misc]
    """`model` (a name `bench` knows, or a backend) under `steering` (a file `bench export` wrote, or a value).

    `coefficient` scales the steering once more: 1 is as it was written, 0 the bare model under the same
    prompt edit. Without a chat template a prompt edit is text before the context; what it has after the
    instruction, and example turns, need lm-eval's `--apply_chat_template`.
    """

    backend = "causal"  # how TemplateLM splits a context from its continuation

    def __init__(
        self,
        model: str | HFBackend = DEFAULT,
        steering: str | Path | Steering = "",
        coefficient: float = 1.0,
        dtype: str = "auto",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.lm = HFBackend(resolve(model), dtype) if isinstance(model, str) else model
        if batch_size not in (None, "", "auto"):
            self.lm.batch = self.lm.written = int(batch_size or 0)
        if isinstance(steering, str | Path):
            steering = interchange.load(Path(steering)) if str(steering) else Steering()
        self.steering = steering.scaled(float(coefficient)) if float(coefficient) != 1 else steering
        if self.steering.mixing:
            raise UsageError("lm-eval asks under one prompt, and this steering mixes two: take coefficient 1 or 0")
        self.inside = replace(self.steering, prompt=Prompt(), mix=None)
        self.templated = False
        self.touched = self.steering.prompt != Prompt() or bool(self.steering.deltas or self.steering.embeds)
        """Whether anything that was asked so far could be another than without steering."""
        self._device = devices.of(self.lm.model)
        self.batch_size = self.lm.batch

    # What lm-eval asks of a tokenizer, as in its `hf` model

    @property
    def tokenizer(self) -> Any:
        return self.lm.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """Key of lm-eval's request cache: a prompt edit changes what a chat renders to."""
        return f"{self.lm.source.slug}-{digest(self.lm.source.weights, self.steering.prompt)}"

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def max_length(self) -> int:
        return self.lm.context - self.steering.inserted

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        extra = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            extra = {"add_special_tokens": False}
        found: list[int] = self.tokenizer.encode(string, **extra)
        return found

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        self.templated = True
        messages: tuple[Message, ...] = tuple((turn["role"], turn["content"]) for turn in chat_history)
        answer: tuple[Message, ...] = ()
        if not add_generation_prompt:  # the last turn is the beginning of the answer
            messages, answer = messages[:-1], messages[-1:]
        return self.lm.chat.render(self.steering.prompt.apply(messages)) + "".join(content for _, content in answer)

    def _before(self) -> str:
        """What a prompt edit puts before a context that is plain text."""
        edit = self.steering.prompt
        if self.templated or edit == Prompt():
            return ""
        if edit.suffix or edit.shots:
            raise UsageError("this prompt edit needs turns of a chat: apply the chat template (--chat)")
        return "\n\n".join(part for part in (edit.system, edit.prefix.rstrip()) if part) + "\n\n"

    # What lm-eval asks of a model

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        pairs = []
        for context, continuation in (request.args for request in requests):
            context = self._before() + context
            if context:
                prompt, target = self._encode_pair(context, continuation)
            else:
                prompt, target = [self.prefix_token_id], self.tok_encode(continuation, add_special_tokens=False)
                if target[:1] == prompt:
                    prompt, target = target[:1], target[1:]
            pairs.append(((context, continuation), prompt, target))
        return self._loglikelihood_tokens(pairs)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        prompts, targets = [], []
        for i, (_, prompt, target) in enumerate(requests):
            room = self.max_length + 1 - len(target)  # the last token is read by nobody
            if not target or room < 1:
                raise BenchError(f"request {i}: a continuation of {len(target)} tokens cannot be scored")
            prompts.append(prompt[-room:])
            targets.append(target)
        found = dict(self.lm.score(prompts, targets, [Request("", self.inside)] * len(prompts)))
        self.touched |= any(any(one.positions_edited) for one in found.values())
        return [(found[i].total, found[i].greedy) for i in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        before = self._before()
        edit = self.tok_encode(before, add_special_tokens=False) if before else []
        windows: list[tuple[Any, list[int], list[int]]] = []
        owners = []
        for i, (text,) in enumerate(request.args for request in requests):
            parts = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - len(edit),
                context_len=1,
            )
            for prompt, target in map(make_disjoint_window, parts):
                windows.append((None, prompt[:1] + edit + prompt[1:], target))
                owners.append(i)
        totals = [0.0] * len(requests)
        for i, (total, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[i] += total
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        eos = self.tokenizer.decode(self.eot_token_id)
        asked: Counter[str] = Counter()
        groups: dict[tuple[str, ...], list[tuple[int, list[int], Request]]] = {}
        for i, (context, given) in enumerate(request.args for request in requests):
            sampling, stop = _sampling(given, eos)
            room = self.max_length - sampling.max_new_tokens
            if room < 1:
                raise UsageError(f"{sampling.max_new_tokens} new tokens leave no room in {self.max_length} of context")
            text = self._before() + context
            asked[text] += 1  # a task that samples a document several times repeats its request
            seed = int(digest(text, asked[text]), 16) % 2**63
            request = Request(text, self.inside, sampling, seed)
            groups.setdefault(stop, []).append((i, self.tok_encode(text)[-room:], request))
        found: dict[int, str] = {}
        for stop, own in groups.items():
            answers = self.lm.write([ids for _, ids, _ in own], [request for *_, request in own], stop)
            for k, answer in answers:
                self.touched |= any(answer.positions_edited)
                found[own[k][0]] = postprocess_generated_text(answer.text, list(stop), None)
        return [found[i] for i in range(len(requests))]


def _sampling(given: dict[str, Any], eos: str) -> tuple[Sampling, tuple[str, ...]]:
    """lm-eval's generation arguments as a `Sampling` and stop texts; refuses what has no place in one."""
    found = normalize_gen_kwargs(given, 256)
    stop = handle_stop_sequences(found.pop("until", None), eos=eos)
    tokens, drawn = found.pop("max_gen_toks"), found.get("do_sample")
    temperature = float(found.pop("temperature", 0.0) or 0.0) if drawn else 0.0
    top_k = int(found.pop("top_k", 50) or 0)
    if float(found.pop("top_p", 1.0) or 1.0) < 1 and drawn:
        raise UsageError("top_p is not one of bench's sampling settings: use temperature and top_k")
    if strange := sorted(k for k, v in found.items() if k not in IGNORED or (k == "num_beams" and v != 1)):
        raise UsageError(f"generation argument {strange[0]!r} is not one of bench's: temperature, top_k, max_gen_toks")
    return Sampling(int(tokens), temperature, top_k), tuple(text for text in stop if text)
