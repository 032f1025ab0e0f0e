"""Models of other families than Llama: what they compute, and where their modules lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_cases import BUDGET, letters

from bench.backends import tiny
from bench.backends.hf import attention
from bench.backends.hf.backend import HFBackend
from bench.backends.models import Model
from bench.core.content import Array
from bench.core.interfaces import Context
from bench.core.values import Request, Sampling
from bench.training.texts import Text, Texts

LOUD = 40.0
"""What the queries' weights are multiplied with, so that attention's logits reach a cap."""


def built(folder: Path, kind: str, edit: Callable[[Any], None] | None = None, **shape: Any) -> Model:
    """A tiny model of `kind` with `shape` in its configuration and weights that `edit` changed."""
    from transformers import AutoConfig, AutoModelForCausalLM

    source = tiny.build(folder, "llama")
    plain = json.loads((folder / "config.json").read_text())
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    same += ("num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{name: plain[name] for name in same} | shape)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(4.0 if "embed" in name else 2.0)
        if edit is not None:
            edit(model)
    model.save_pretrained(folder)
    return source


def reference(source: Model, ids: Sequence[int]) -> Array:
    """log p `[T, V]` of a text's tokens, by transformers alone with the attention that the family's own code has."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        found: Array = plain(torch.tensor([list(ids)])).logits[0].log_softmax(-1).numpy()
    return found


def continued(found: Array, ids: Sequence[int], target: Sequence[int]) -> list[float]:
    """Of `reference`, what each token of `target` has after `ids`."""
    return [float(found[len(ids) - 1 + k, token]) for k, token in enumerate(target)]


def loud(model: Any) -> None:
    for block in model.model.layers:
        block.self_attn.q_proj.weight.mul_(LOUD)


@pytest.fixture(scope="module")
def capped(tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    """A Gemma-2 whose attention's logits reach its cap."""
    folder = tmp_path_factory.mktemp("capped")
    shape = {"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8}
    return HFBackend(built(folder, "gemma2", loud, **shape), "float32")


def test_a_cap_of_attention_s_logits_is_kept(capped: HFBackend) -> None:
    """In a pass alone, in a batch, in a tree of targets, in an answer and in training."""
    texts, targets = ["Why?", "What is it about, and whose is it?"], [" Paris it is.", " Paris it was.", "No"]
    requests = [Request((("user", text),), target=target) for text in texts for target in targets]
    together = dict(capped.logprobs(requests))
    context = Texts(Context(capped, BUDGET, trains=(letters(),)))
    for i, request in enumerate(requests):
        ids, target = capped.encode(request.prompt), capped.chat.continued(request.target)
        right = continued(reference(capped.source, [*ids, *target]), ids, target)
        assert together[i].logprobs == pytest.approx(right, abs=1e-4)
        number = context.add(Text(request.prompt, request.target))
        assert number is not None
        with torch.enable_grad():
            total = context.run([number], None).total
        assert total.item() == pytest.approx(sum(right), abs=1e-3)
    asked = [Request((("user", text),), sampling=Sampling(6, 0.0)) for text in texts]
    written = dict(capped.generate(asked))
    for i, request in enumerate(asked):
        ids = capped.encode(request.prompt)
        for _ in range(6):
            ids.append(int(reference(capped.source, ids)[-1].argmax()))
        assert written[i].text == capped.tokenizer.decode(ids[-6:], skip_special_tokens=True)


def test_the_cap_matters_here(capped: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "implementation", lambda config: "sdpa")
    dropped = HFBackend(capped.source, "float32")
    request = Request((("user", "Why?"),), target=" Paris it is.")
    one, other = (np.array(dict(lm.logprobs([request]))[0].logprobs) for lm in (capped, dropped))
    assert np.abs(one - other).max() > 0.01


def test_a_checkpoint_does_not_choose_its_attention(tmp_path: Path) -> None:
    source = tiny.build(tmp_path, "llama")
    file = source.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attn_implementation": "flash_attention_2"}))
    assert HFBackend(source, "float32").model.config._attn_implementation == attention.PLAIN
