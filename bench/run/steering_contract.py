"""What a steering must be before a run answers with it: of this model's shape, finite, and text where text is due.

Invariant: what is wrong with a method's steering is told when it is fitted (or bound to a prompt), in one line, and not
by an engine in the middle of a batch that other methods share.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from bench.core.content import Array
from bench.core.deltas import Delta
from bench.core.edits import Edit
from bench.core.embeds import Embeds
from bench.core.errors import THEIRS, BenchError, said
from bench.core.interfaces import Backend, Bound, Fitted
from bench.core.kinds import Add
from bench.core.steering import Prompt, Steering


def unfit(candidate: Any, lm: Backend) -> str:
    """Why a run cannot use a candidate of a fit; "" where it can. A steering for each prompt is seen when bound."""
    if not isinstance(candidate, Fitted):
        return f"its fit gave a {type(candidate).__name__}, where a Fitted is due"
    if problem := _untold(candidate.note):
        return f"its note {problem}"
    steering: object = candidate.steering
    later = steering is None or (isinstance(steering, Bound) and not isinstance(steering, Steering))
    return "" if later else misshapen(steering, lm)


def misshapen(steering: Any, lm: Backend) -> str:
    """Why a steering cannot be applied to a model; "" where it can."""
    if not isinstance(steering, Steering):
        return f"its steering is a {type(steering).__name__}: a Steering, or what binds to one, is due"
    if lack := sorted(steering.needs - lm.can):
        return f"backend {lm.name} cannot {', '.join(lack)}"
    prompts = [steering.prompt, *([steering.mix.against] if steering.mix else [])]
    parts = (
        *map(_said, prompts),
        *(_edit(edit, lm) for edit in steering.edits),
        *_deltas(steering.deltas, lm),
        *(_embeds(part, lm) for part in steering.embeds),
    )
    return next((problem for problem in parts if problem), "")


def _untold(note: Any) -> str:
    """Why a note cannot be written down as JSON."""

    def bare(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"holds a {type(value).__name__}, which JSON has no place for")

    try:
        json.dumps(dict(note), allow_nan=False, default=bare)
    except ValueError:
        return "holds a number that is not finite"
    except TypeError as error:
        return str(error)
    return ""


def _said(prompt: Prompt) -> str:
    texts = [prompt.system, prompt.prefix, prompt.suffix, *(text for shot in prompt.shots for text in shot)]
    return "" if all(isinstance(text, str) for text in texts) else "its prompt has a part that is no text"


def _edit(edit: Any, lm: Backend) -> str:
    if not isinstance(edit, Edit):
        return f"its steering has a {type(edit).__name__}, which is no edit"
    name = f"its {type(edit).__name__} at layer {edit.layer}"
    for layer, what in ((edit.layer, ""), *([(edit.gate.layer, "'s gate")] if edit.gate else [])):
        if not isinstance(layer, int | np.integer) or not 0 <= layer < lm.layers:
            return f"{name}{what}: the model has layers 0 to {lm.layers - 1}"
    if problem := _arrays(edit):
        return f"{name}: {problem}"
    if edit.gate and np.shape(edit.gate.direction) != (lm.width,):
        return f"{name}: its gate has shape {np.shape(edit.gate.direction)}, and the model's states have {lm.width}"
    return _changes(edit, name, lm.size(edit.layer, edit.site))


def _arrays(edit: Edit) -> str:
    """What is wrong with the tensors of an edit by themselves."""
    for field in dataclasses.fields(edit):
        value = getattr(edit, field.name)
        if field.type in ("Array", Array) and not isinstance(value, np.ndarray):
            return f"{field.name} is a {type(value).__name__}, where a NumPy array is due"
    for field_name, array in edit.tensors().items():
        if array.dtype.kind not in "fiub":
            return f"{field_name} holds {array.dtype}, where real numbers are due"
        if not np.isfinite(array).all():
            return f"{field_name} has values that are not finite"
    return ""


def _changes(edit: Edit, name: str, width: int) -> str:
    """What its kind's own maths says of one state of the model's width."""
    import torch

    if isinstance(edit, Add) and (found := edit.value.shape[-1:]) != (width,):
        return f"{name} has {found[0] if found else 1} values, the model {width}"
    state = torch.linspace(-1, 1, width)[None, None]
    operands = {field: torch.as_tensor(value)[None] for field, value in edit.operands().items()}
    placed = {
        field: value[:, :1] if field in edit.by_position and value.ndim == 3 else value[:, None]
        for field, value in operands.items()
    }
    placed |= {name: torch.as_tensor(value) for name, value in edit.common().items()}
    placed["index"] = torch.zeros(1, 1)
    try:
        change = edit.change(state, placed, edit.flags())
        shape = (state + change).shape
    except THEIRS as error:  # a kind may be third-party code
        return f"{name} cannot change a state of {width} values: {_shapes(edit)}: {said(error)}"
    if shape != state.shape:
        return f"{name} makes {tuple(shape)} of a state {tuple(state.shape)}: {_shapes(edit)}"
    return "" if bool(torch.isfinite(change).all()) else f"{name} gives values that are not finite"


def _shapes(edit: Edit) -> str:
    return ", ".join(f"{field} is {value.shape}" for field, value in edit.tensors().items())


def _deltas(deltas: tuple[Any, ...], lm: Backend) -> list[str]:
    """Of each change of a weight, where the engine shows its model's modules."""
    if not deltas:
        return []
    from bench.backends.hf.weights import shape  # loads torch

    try:
        modules = dict(lm.module.named_modules())
    except BenchError:
        return []
    found = []
    for delta in deltas:
        if not isinstance(delta, Delta):
            return [f"its steering has a {type(delta).__name__}, which is no change of a weight"]
        module = modules.get(delta.module)
        own = None if module is None else shape(module)
        if own is None:
            found.append(f"{type(delta).__name__} on {delta.module!r}: the model has no such linear module")
            continue
        left, right = delta.factors()
        size = (left.shape[0], left.shape[1] if right is None else right.shape[1])
        inner = "" if right is None or left.shape[1] == right.shape[0] else "its factors do not fit each other"
        found.append(inner if size == own else f"{type(delta).__name__} on {delta.module}: {size}, where it is {own}")
        if not all(np.isfinite(value).all() for value in delta.tensors().values()):
            found.append(f"{type(delta).__name__} on {delta.module}: it has values that are not finite")
    return found


def _embeds(part: Any, lm: Backend) -> str:
    if not isinstance(part, Embeds):
        return f"its steering has a {type(part).__name__}, which is no soft prompt"
    fits = part.values.shape[1] == lm.width
    return "" if fits else f"a soft prompt of shape {part.values.shape}, and the model's embeddings have {lm.width}"
