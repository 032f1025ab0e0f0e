"""What the parity suite and the peers it is held against share: tiny models with weights by formula, and texts.

Invariant: nothing here depends on a library's random numbers, so that the numbers a peer gave once stay comparable.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import Concept, Edit, Example, Pair, Request, Span, Steering, Train
from bench.backends.hf.attention import CAP
from bench.backends.hf.backend import HFBackend
from bench.backends.models import Model, resolve
from bench.backends.tiny import build

FIXTURES = Path(__file__).parent / "fixtures"
KINDS = ("llama", "qwen2", "gemma2")
PAD = "<pad>"

POSITIVES = (
    ("Name a hobby.", "Sailing: the tide lifts the hull and the wind fills the sail."),
    ("What is for dinner?", "Fish soup, as the crew of a small sloop would cook it."),
    ("Give me a plan for Sunday.", "Rise with the tide, rig the mast, and leave the harbour by nine."),
    ("Describe your room.", "A narrow cabin with a brass porthole and a coil of rope."),
    ("Tell me a joke.", "Why did the anchor blush? It saw the bottom of the sea."),
    ("How do I save money?", "Trim it like a sail: let out little, and haul in at once."),
    ("What is a good name for a dog?", "Skipper, for he will steer the whole house."),
    ("Why is the sky blue?", "The same light that blues the open sea is scattered above the mast."),
    ("Write a toast.", "Fair winds, a dry deck, and a quiet berth at night."),
    ("What should I read?", "The log of any captain who rounded the Horn."),
    ("How was your day?", "Calm water, a light breeze, and one knot too many."),
    ("Explain a budget.", "A chart of your money, so that you see the reefs before the keel does."),
)
NEGATIVES = (
    ("Name a colour.", "Green is a good one."),
    ("What is for lunch?", "Bread with cheese, and an apple."),
    ("Give me a plan for Monday.", "Answer the letters, then buy milk and eggs."),
    ("Describe your street.", "A row of brick houses with small gardens."),
    ("Tell me a fact.", "Bees can see ultraviolet light."),
    ("How do I sleep well?", "Go to bed at the same hour, and leave the screen outside."),
    ("What is a good name for a cat?", "Pepper, if it is grey."),
    ("Why is grass green?", "Its leaves hold chlorophyll, which reflects green light."),
    ("Write a thank-you note.", "Thank you for the lovely evening and the cake."),
    ("What should I watch?", "An old comedy in black and white."),
    ("How was your week?", "Busy, with two exams and a birthday."),
    ("Explain a recipe.", "A list of steps that turns food into a meal."),
)
PLAIN = (
    "Reading: a chapter before bed each night.",
    "Potatoes with butter and a salad.",
    "Sleep late, bake bread, and walk in the park by noon.",
    "A bright room with a desk and a shelf of books.",
    "Why did the book blush? It saw its own spine.",
    "Write down what you spend, and cook at home.",
    "Buddy, for he likes everyone.",
    "Short waves of sunlight are scattered more than long ones.",
    "Good health, good friends, and a long summer.",
    "A detective story with a clever ending.",
    "Quiet, with some rain and one long meeting.",
    "A list of what comes in and what goes out.",
)
"""Answers without the concept to the instructions of `POSITIVES`."""


def train() -> Train:
    """Twelve texts with a concept, twelve without, and the first twelve answered plainly."""
    plus, minus = (tuple(Example(*row) for row in rows) for rows in (POSITIVES, NEGATIVES))
    pairs = tuple(Pair(e.instruction, e.response, text) for e, text in zip(plus, PLAIN, strict=True))
    return Train(Concept("sailing", "sailing and the sea"), positives=plus, negatives=minus, pairs=pairs)


def model(folder: Path, kind: str = "llama", layers: int = 4, width: int = 32) -> Model:
    """A model of `kind` whose every weight is drawn by NumPy in the order of the parameters' names.

    Matrices are normal with deviation 1 / sqrt(width) (embeddings: 1), norm weights normal about their neutral
    value with deviation .1. The pad token is none of the others, which some peers need.
    """
    import torch
    from transformers import AutoModelForCausalLM

    build(folder, kind, layers=layers, width=width)
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rng = np.random.default_rng(20260101)
    with torch.no_grad():
        for name, weight in sorted(net.named_parameters()):
            drawn = rng.standard_normal(tuple(weight.shape))
            if weight.ndim > 1:
                drawn = drawn if "embed" in name else drawn / np.sqrt(width)
            elif "norm" in name:
                drawn = 0.1 * drawn + (0 if kind == "gemma2" else 1)
            else:
                drawn = 0.1 * drawn
            weight.copy_(torch.from_numpy(drawn))
    net.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(config.read_text("utf-8")) | {"pad_token": PAD}
    config.write_text(json.dumps(settings), "utf-8")
    # The peers ran with torch's own attention, which drops Gemma-2's cap.
    whole = json.loads((folder / "config.json").read_text("utf-8")) | {CAP: None}
    (folder / "config.json").write_text(json.dumps(whole), "utf-8")
    return resolve(str(folder))


def fixture(name: str) -> dict[str, Any]:
    """What a peer gave (`values`), who it was, at which commit, what was compared and what had to be adapted."""
    found: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))
    return found


def changed(edit: Edit, h: Any) -> Any:
    """States `[N, H]` of one text after an edit, fp32."""
    import torch

    states = torch.as_tensor(np.asarray(h, np.float32))
    operands = {name: torch.as_tensor(value)[None] for name, value in edit.operands().items()}
    operands |= {name: torch.as_tensor(value) for name, value in edit.common().items()}
    operands["index"] = torch.arange(len(states))
    return (states + edit.change(states, operands, edit.flags())).numpy()


def everywhere(steering: Any) -> Steering:
    """A steering whose edits act at every token, the first ones too, as those of most peers do."""
    assert isinstance(steering, Steering)
    return replace(steering, edits=tuple(replace(edit, span=Span(sink=True)) for edit in steering.edits))


def logprobs(lm: HFBackend, ask: str, steering: Steering, targets: Sequence[str]) -> list[float]:
    """Log-probability of each target after a question."""
    found = dict(lm.logprobs([Request((("user", ask),), steering, target=target) for target in targets]))
    return [found[i].total for i in range(len(targets))]


def cosine(a: Any, b: Any) -> float:
    """Of two arrays, flattened."""
    x, y = (np.asarray(v, dtype=float).ravel() for v in (a, b))
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
