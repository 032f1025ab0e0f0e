"""A loaded model, tried before it is believed: whole weights, finite numbers, tokens that have a row, one fixed text.

transformers fills what a file lacks with random numbers, and takes settings of a checkpoint that no run asked for.

Invariant: what is wrong with a model is said in one line with its remedy, before a number is made with it; what was
found is kept beside the numbers.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.backends import devices
from bench.backends.hf.chat import Chat
from bench.backends.hf.template import CHATS, DAY
from bench.core.content import digest
from bench.core.definitions import minor
from bench.core.errors import BenchError
from bench.core.paths import cache_root
from bench.core.store import write_json

ASKED = (("user", "Which city is the capital of France?"),)
SHOWN = (("system", "Be brief."), ("user", "Name a city."), ("assistant", "Paris."), ("user", "Another?"))
ANSWER = "The capital of France is Paris."
"""A fixed text, whose log-probability tells two readings of the same weights apart."""
NEAR = {torch.float32: 1e-3}
"""Nats a token by which that may differ between two loads of the same weights, by the type of numbers."""
ROUNDED = 0.1
"""The same in types of sixteen bits."""
NAMED = 3
"""Names of tensors that a message lists."""


def refuse_unloaded(name: str, loading: Mapping[str, Any]) -> None:
    """Raise where weights of a model are not in its files, or not in their shape, by the report of loading it."""
    for kind, said in (("missing_keys", "are not in its files"), ("mismatched_keys", "have another shape there")):
        found = sorted(key if isinstance(key, str) else str(key[0]) for key in loading.get(kind) or ())
        if found:
            listed = ", ".join(found[:NAMED]) + (", …" if len(found) > NAMED else "")
            raise BenchError(
                f"{name}: {len(found)} of its weights {said} ({listed}) and would be random: save it again with "
                "save_pretrained, or download it anew"
            )
    if errors := loading.get("error_msgs"):
        raise BenchError(f"{name}: {str(errors).splitlines()[0]}")


def told(chat: Chat) -> dict[str, Any]:
    """What chats look like to the model: for reading, no weights needed."""
    template, tokenizer = chat.template, chat.tokenizer
    found: dict[str, Any] = {
        "example": chat.render(SHOWN),
        "opens": template.opens if template.apply else "",
        "ends": [tokenizer.decode([token]) for token in sorted(chat.ends)],
    }
    if template.apply is None:
        return found | {"template": "none: turns are lines"}
    found |= {"system": "in the first user turn"} if template.merges else {}
    found |= {"content": "parts"} if template.parts else {}
    found |= {"day": f"{DAY:%Y-%m-%d}"} if template.dated else {}
    found |= {"thought": f"closed by {template.closing.strip()}"} if template.closing else {}
    return found | ({"arguments": dict(template.arguments)} if template.arguments else {})


@torch.inference_mode()
def tried(name: str, model: Any, chat: Chat, loading: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What a loaded model is and says; `key` names its weights and type of numbers. Raises BenchError for one whose
    numbers could not be believed."""
    config = model.config.get_text_config()
    rows = model.get_input_embeddings().weight.shape[0]
    ids, answer = chat.encode(ASKED), chat.continued(ANSWER)
    _refuse_beyond(name, chat, rows, [*chat.encode(CHATS[-1]), *ids, *answer])
    near = NEAR.get(model.dtype, ROUNDED)
    total, again = (_score(model, [*ids, *answer], len(answer)) for _ in range(2))
    if not math.isfinite(total):
        raise unreal(name, model.dtype)
    if not abs(total - again) / len(answer) <= near:
        raise BenchError(f"{name}: one text has log-probabilities {total:.3f} and {again:.3f}: it draws at random")
    quantised = getattr(model.config, "quantization_config", None)
    found = {
        "unread": len(loading.get("unexpected_keys") or ()),
        "embedding": rows,
        "context": getattr(config, "max_position_embeddings", None),
        "attention": config._attn_implementation,
        "device": devices.of(model).type,
        **({"spread": _places(model)} if getattr(model, "hf_device_map", None) else {}),
        **({"quantised": type(quantised).__name__} if quantised is not None else {}),
        "logprob": round(total, 4),
        "programs": [minor("torch"), minor("transformers")],
    }
    return _compared(name, key, found, len(answer), near)


def _places(model: Any) -> dict[str, int]:
    """device -> how many of the parts that were spread lie there."""
    return dict(Counter(str(place) for place in model.hf_device_map.values()))


def unreal(name: str, dtype: torch.dtype) -> BenchError:
    """The error for a model whose numbers, nothing steered, are none in this type."""
    wider = "float32" if dtype == torch.bfloat16 else "bfloat16 or float32"
    return BenchError(f"{name}: its numbers are not finite in {str(dtype).removeprefix('torch.')}: --dtype {wider}")


def _refuse_beyond(name: str, chat: Chat, rows: int, ids: Sequence[int]) -> None:
    """Raise where a chat holds a token that the embedding has no row for."""
    if beyond := sorted({token for token in ids if token >= rows}):
        listed = ", ".join(f"{chat.tokenizer.decode([token])!r} ({token})" for token in beyond[:NAMED])
        raise BenchError(
            f"{name}: its tokenizer has tokens that its embedding of {rows:,} rows lacks: {listed}; "
            "resize_token_embeddings was not called, or the tokenizer is another model's"
        )


def _score(model: Any, ids: Sequence[int], count: int) -> float:
    """The log-probability of the last `count` of `ids` (nats); NaN where any logit is."""
    logits = model(torch.tensor([list(ids)], device=devices.of(model)), use_cache=False).logits[0].float()
    wanted = torch.tensor(ids[-count:], device=logits.device)
    scores = logits[-count - 1 : -1].log_softmax(-1).gather(1, wanted[:, None])
    return math.nan if bool(logits.isnan().any()) else float(scores.sum())


def _compared(name: str, key: str, found: dict[str, Any], tokens: int, near: float) -> dict[str, Any]:
    """What was found when these weights were first loaded here, where it is the same; else what is found now, beside
    what the fixed text's log-probability was. Raises where the same programs now give another."""
    before = kept(key)
    was, now = before.get("logprob"), found["logprob"]
    same = isinstance(was, float) and abs(was - now) / tokens <= near
    if same and before.get("programs") == found["programs"]:
        return before
    if isinstance(was, float) and not same:
        if before.get("programs") == found["programs"]:
            raise BenchError(
                f"{name}: a fixed text has log-probability {now:.3f}, and had {was:.3f} when these weights were first "
                f"loaded: they are not read as they were; where another machine explains it, delete {_file(key)}"
            )
        found = found | {"before": {"logprob": was, "programs": before.get("programs")}}
    keep(key, found)
    return found


def kept(key: str) -> dict[str, Any]:
    """What was found of a model when it was loaded here before; nothing where it was not."""
    try:
        found = json.loads(_file(key).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(key: str, found: Mapping[str, Any]) -> None:
    """Write down what was found of a model."""
    write_json(_file(key), kept(key) | dict(found))


def _file(key: str) -> Path:
    return cache_root() / "probes" / f"{digest(key)}.json"


def lines(found: Mapping[str, Any], indent: str = "") -> list[str]:
    """What was found, as text."""
    out: list[str] = []
    for key, value in found.items():
        if isinstance(value, Mapping):
            out += [f"{indent}{key}:", *lines(value, f"{indent}  ")]
        else:
            out.append(f"{indent}{key}: {value!r}" if isinstance(value, str) else f"{indent}{key}: {value}")
    return out


def place(weights: str, dtype: torch.dtype, spread: str | Mapping[str, Any] = "") -> str:
    """The key under which a model's probe and memory are kept."""
    return digest(weights, str(dtype), devices.best(), *([spread] if spread else []))


def memory_file(key: str, use: str) -> Path:
    """Where a device's limit for one use of a model is remembered."""
    return cache_root() / "memory" / f"{digest(key, use, devices.name())}.json"
