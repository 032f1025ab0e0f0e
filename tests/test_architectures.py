"""Models of other families than Llama: what they compute, and where their modules lie."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_cases import BUDGET, group, letters, small

from bench.backends import tiny
from bench.backends.hf import attention
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import attention_output, blocks, check_states, chosen, site_of
from bench.backends.hf.weights import by_row, weight
from bench.backends.models import Model, resolve
from bench.core.content import Array
from bench.core.deltas import LowRankDelta
from bench.core.errors import BenchError
from bench.core.interfaces import Context
from bench.core.steering import Steering
from bench.core.values import Request, Sampling
from bench.run.steering_contract import misshapen
from bench.training.changes.base import RowPlan
from bench.training.texts import Text, Texts

LOUD = 400.0
"""What the queries' weights are multiplied with, so that attention's logits reach a cap."""


def built(folder: Path, kind: str, edit: Callable[[Any], None] | None = None, **shape: Any) -> Model:
    """A tiny model of `kind` with `shape` in its configuration and weights that `edit` changed."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tiny.build(folder, "llama")
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
    return resolve(str(folder))


def reference(source: Model, ids: Sequence[int], kernel: str = "eager") -> Array:
    """log p `[T, V]` of a text's tokens, by transformers alone with the attention that the family's own code has."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32, attn_implementation=kernel)
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


def test_the_cap_matters_here(capped: HFBackend) -> None:
    ids = capped.encode("Some words of a text.")
    one, other = (reference(capped.source, ids, kernel) for kernel in ("eager", "sdpa"))
    assert np.abs(one - other).max() > 0.01


def test_a_checkpoint_does_not_choose_its_attention(tmp_path: Path) -> None:
    source = tiny.build(tmp_path, "llama")
    file = source.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attn_implementation": "flash_attention_2"}))
    assert HFBackend(source, "float32").model.config._attn_implementation == attention.PLAIN


SHAPES: dict[str, dict[str, Any]] = {
    "falcon": {"new_decoder_architecture": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "mixtral": {"num_local_experts": 4},
    "mpt": {"expansion_ratio": 2},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
}
WRITERS = {
    "bloom": {"self_attention.dense", "mlp.dense_4h_to_h"},
    "codegen": {"attn.out_proj", "mlp.fc_out"},
    "falcon": {"self_attention.dense", "mlp.dense_4h_to_h"},
    "gemma2": {"self_attn.o_proj", "mlp.down_proj"},
    "gpt2": {"attn.c_proj", "mlp.c_proj"},
    "gpt_bigcode": {"attn.c_proj", "mlp.c_proj"},
    "gpt_neo": {"attn.attention.out_proj", "mlp.c_proj"},
    "gpt_neox": {"attention.dense", "mlp.dense_4h_to_h"},
    "gptj": {"attn.out_proj", "mlp.fc_out"},
    "llama": {"self_attn.o_proj", "mlp.down_proj"},
    "mamba": {"mixer.out_proj"},
    "openai-gpt": {"attn.c_proj", "mlp.c_proj"},
    "mistral": {"self_attn.o_proj", "mlp.down_proj"},
    "mixtral": {"self_attn.o_proj"},  # its experts are one tensor
    "mpt": {"attn.out_proj", "ffn.down_proj"},
    "opt": {"self_attn.out_proj", "fc2"},
    "phi": {"self_attn.dense", "mlp.fc2"},
    "qwen2_moe": {"self_attn.o_proj", "mlp.shared_expert.down_proj"},
    "stablelm": {"self_attn.o_proj", "mlp.down_proj"},
}


def bare_block(kind: str) -> torch.nn.Module:
    """The first block of a small model of a family, without numbers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, **size | SHAPES.get(kind, {}))
    with torch.device("meta"):
        return blocks(AutoModelForCausalLM.from_config(config))[0]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_family_s_modules_are_found_by_their_roles(kind: str) -> None:
    """Those that write to the residual stream; and, as peft's own table has them, those of queries and values."""
    block = bare_block(kind)
    assert {path for role in ("attn-out", "mlp-out") for path in chosen(block, role)} == WRITERS[kind]
    if kind in ("mamba", "openai-gpt"):  # of which peft has no entry
        return
    constants = pytest.importorskip("peft.utils.constants")
    theirs = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind, ["q_proj", "v_proj"])
    found = {path.rpartition(".")[2] for role in ("attn-query", "attn-value") for path in chosen(block, role)}
    assert found == set(theirs) - {"fc1", "fc2"}  # of Phi it takes the feed-forward part too


def test_a_module_s_own_name_wins_and_one_that_no_block_has_is_told() -> None:
    block = bare_block("gpt2")
    assert chosen(block, "c_proj") == ["attn.c_proj", "mlp.c_proj"]
    assert chosen(block, "mlp.c_proj") == ["mlp.c_proj"]
    assert chosen(block, "j_proj") == []


@pytest.fixture(scope="module", params=["gpt2", "opt", "qwen2_moe", "bloom"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    """Weights that lie transposed, inputs without a batch axis, a mixture, and attention that gives a whole stream."""
    kind: str = request.param
    folder = tmp_path_factory.mktemp(kind)
    return HFBackend(built(folder, kind, **{"num_key_value_heads": 4} | SHAPES.get(kind, {})), "float32")


@pytest.mark.parametrize("form", ["lora", "dora", "pissa", "svft", "ssvd", "rotation", "full"])
def test_adapters_train_and_act_by_row_on_any_family(family: HFBackend, form: str) -> None:
    """What is learnt acts in training as it does as a steering, beside rows that are bare or have the opposite, and as
    the same change does in the weights themselves."""
    concepts = (letters(), letters("high", "mnop", seed=1))
    learnt = group(family, small(form), trains=concepts, rate=0.02)
    learnt.fit()
    # Of two concepts in one pass, texts of different lengths.
    numbers = [learnt.items[c][0][0] for c in (0, 1)]
    plan = RowPlan(torch.arange(2), torch.ones(2), torch.zeros(2, dtype=torch.bool))
    with torch.no_grad():
        trained = learnt.texts.run(numbers, learnt.change, plan).total.tolist()
    examples = [concept.positives[0] for concept in concepts]
    steerings = [learnt.change.steering(c) for c in (0, 1)]
    requests = [
        Request(example.messages[:-1], steering, target=example.messages[-1][1])
        for example, own in zip(examples, steerings, strict=True)
        for steering in (None, own, own.scaled(-1.0))
    ]
    found = {i: np.array(one.logprobs) for i, one in family.logprobs(requests)}
    for steering in steerings:  # what a run asks of it before it is used
        assert not misshapen(steering, family)
    for c in (0, 1):
        bare, steered, opposite = (found[3 * c + k] for k in range(3))
        assert np.abs(steered - bare).max() > 1e-4
        assert np.abs(steered - opposite).max() > 1e-4
        assert trained[c] == pytest.approx(float(steered.sum()), abs=2e-3)
        with added(family.model, steerings[c]):
            whole = dict(family.logprobs([requests[3 * c]]))[0].logprobs
        assert whole == pytest.approx(steered, abs=1e-3)


@contextmanager
def added(model: Any, steering: Steering) -> Iterator[None]:
    """A steering's changes in the weights themselves."""
    held = []
    for delta in steering.deltas:
        left, right = delta.factors()
        change = torch.from_numpy(np.asarray(left if right is None else left @ right, np.float32))
        module = model.get_submodule(delta.module)
        held.append((module.weight, module.weight.clone()))
        with torch.no_grad():
            module.weight += change.T if type(module).__name__ == "Conv1D" else change
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in held:
                weight.copy_(old)


def test_heads_add_up_to_what_attention_gives(family: HFBackend) -> None:
    module = attention_output(blocks(family.model)[2])
    given: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _, __, output: given.append(output))
    text = "A text of some words."
    z = family.activations([text], [2], site="heads")[0].values[2]
    with torch.no_grad():
        family.model(torch.tensor([family.encode(text)]))
    handle.remove()
    weights = family.output_projection(2)
    bias = module.bias.numpy() if getattr(module, "bias", None) is not None else 0
    total = np.einsum("hnd,tnd->th", weights, z.reshape(len(z), *weights.shape[1:])) + bias
    np.testing.assert_allclose(total, given[-1].reshape(-1, 32).numpy()[-len(z) :], atol=1e-4)


def test_an_edit_of_attention_is_of_what_it_writes_alone(family: HFBackend) -> None:
    """BLOOM's attention gives the residual stream and its own part in one."""
    block = blocks(family.model)[1]
    assert "residual" not in inspect.signature(site_of(block, "attn").forward).parameters


def test_a_module_that_sees_some_tokens_is_refused() -> None:
    with pytest.raises(BenchError, match=r"model.layers.1.fc is given \[5, 8\] for 2 rows of 3 tokens"):
        by_row(torch.zeros(5, 8), (2, 3), "model.layers.1.fc")


class Coded(torch.nn.Module):
    """A linear module as quantisers have it: codes and scales, and no weight."""

    def __init__(self, like: torch.nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features, self.bias = like.out_features, like.in_features, like.bias
        self.scales = torch.nn.Parameter(like.weight.abs().amax(1, keepdim=True) / 127, requires_grad=False)
        self.register_buffer("codes", (like.weight / self.scales).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.codes * self.scales, self.bias)


class Rounded(Coded):
    """One whose inputs are rounded so coarsely that it has no matrix."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.sign())


@pytest.mark.parametrize("bias", [True, False])
def test_a_quantised_weight_is_what_the_module_does(bias: bool) -> None:
    torch.manual_seed(0)
    coded = Coded(torch.nn.Linear(12, 20, bias=bias))
    torch.testing.assert_close(weight(coded, "q"), coded.codes * coded.scales)
    torch.testing.assert_close(
        weight(coded.to(torch.bfloat16), "q"), (coded.codes * coded.scales).float(), rtol=0.02, atol=1e-3
    )
    with pytest.raises(BenchError, match=r"q is a Rounded .* its weight cannot be read"):
        weight(Rounded(torch.nn.Linear(12, 20)), "q")


def test_adapters_of_a_quantised_module_start_from_its_weight(tmp_path: Path) -> None:
    """Codes of one byte under the class and the name of a plain module are not read as numbers either."""
    lm = tiny.engine(tmp_path)
    mlp = blocks(lm.model)[1].mlp
    mlp.down_proj = Coded(mlp.down_proj)
    learnt = group(lm, small("pissa", layers=(0.25,), modules=("mlp-out",)))
    step = learnt.change.steering(0).deltas[0]
    assert step.module == "model.layers.1.mlp.down_proj"
    u, s, v = torch.linalg.svd(mlp.down_proj.codes * mlp.down_proj.scales)
    expected = u[:, :2] @ torch.diag(s[:2]) @ v[:2]
    torch.testing.assert_close(learnt.change.scaling * learnt.change.base[0][1] @ learnt.change.base[0][0], expected)


def test_fine_tuning_says_which_role_a_family_has_no_module_for(tmp_path: Path) -> None:
    lm = HFBackend(built(tmp_path, "mixtral", **SHAPES["mixtral"]), "float32")
    change = group(lm, small("lora")).change
    assert change.note(0)["without"] == ["mlp-out"]
    message = r"no linear module 'mlp-out' in the blocks \[1\], which have: self_attn.k_proj, self_attn.o_proj"
    with pytest.raises(BenchError, match=message):
        group(lm, small("lora", layers=(0.25,), modules=("mlp-out",)))
    with pytest.raises(BenchError, match="no linear module 'w2' in the blocks"):
        group(lm, small("lora", layers=(0.25,), modules=("attn-out", "w2")))


def test_a_change_of_a_module_that_is_not_called_is_an_error(tmp_path: Path) -> None:
    """As of an expert that no token is sent to, or a weight that a fused kernel reads past its module."""
    lm = tiny.engine(tmp_path)
    lm.model.model.layers[1].spare = torch.nn.Linear(4, 4)
    change = LowRankDelta(module="model.layers.1.spare", down=np.ones((1, 4)), up=np.ones((4, 1)))
    asked = [Request((("user", "Why?"),), Steering(deltas=(change,)), Sampling(2, 0.0), target="So.")]
    for answer in (lm.generate, lm.logprobs, lm.diverge):
        with pytest.raises(BenchError, match=r"on model.layers.1.spare changed nothing: the module was not called"):
            list(answer(asked))


def test_states_of_another_shape_are_told_before_anything_is_steered(tmp_path: Path) -> None:
    lm = tiny.engine(tmp_path)
    assert check_states(lm.model) == []
    block = blocks(lm.model)[2]
    four = block.register_forward_hook(lambda _, __, output: output[None].expand(4, -1, -1, -1))
    closing = blocks(lm.model)[3].register_forward_pre_hook(lambda _, args: (args[0][0],))
    assert check_states(lm.model) == [
        "LlamaForCausalLM: block 2 gives [4, 1, 3, 32] for [1, 3, 32]: states of another rank cannot be steered"
    ]
    with pytest.raises(BenchError, match=r"gives \[4, 1, \d+, 32\], not the states of rows by tokens"):
        lm.activations(["Some text."], [2])
    four.remove()
    closing.remove()
    deaf = lm.model.register_forward_pre_hook(
        lambda _, args, kwargs: (args, kwargs | {"attention_mask": None, "position_ids": None}), with_kwargs=True
    )
    assert "padding moves a row's states" in check_states(lm.model)[0]
    deaf.remove()
    assert check_states(lm.model) == []


def test_models_without_attention_a_cache_or_a_plain_tuple_answer_as_they_do_alone(tmp_path: Path) -> None:
    """Mamba has no heads; the first GPT keeps nothing between tokens, and its blocks give lists."""
    for kind, shape in (("mamba", {}), ("openai-gpt", {"n_positions": 512})):
        lm = HFBackend(built(tmp_path / kind, kind, **shape), "float32")
        asked = [
            Request((("user", text),), sampling=Sampling(4, 0.0), target=" So it is.") for text in ("Why?", "No." * 9)
        ]
        scored, written = dict(lm.logprobs(asked)), dict(lm.generate(asked))
        for i, request in enumerate(asked):
            ids, target = lm.encode(request.prompt), lm.chat.continued(request.target)
            right = continued(reference(lm.source, [*ids, *target]), ids, target)
            assert scored[i].logprobs == pytest.approx(right, abs=1e-4)
            for _ in range(4):
                ids.append(int(reference(lm.source, ids)[-1].argmax()))
            assert written[i].text == lm.tokenizer.decode(ids[-4:], skip_special_tokens=True)


def test_what_a_tokenizer_puts_behind_a_text_is_not_read(tmp_path: Path) -> None:
    """A post-processor may add an end or a separator: what is continued, scored or read has none; what it puts before
    stays."""
    from tokenizers.processors import TemplateProcessing

    source = tiny.build(tmp_path)
    plain = HFBackend(source, "float32")
    tokenizer = plain.tokenizer
    begin, end = ((tokenizer.convert_ids_to_tokens(i), i) for i in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin[0]} $A {end[0]}", special_tokens=[begin, end]
    )
    tokenizer.save_pretrained(tmp_path)
    lm = HFBackend(resolve(str(tmp_path)), "float32")
    assert lm.tokenizer("ab")["input_ids"][-1] == end[1]
    text = [begin[1], *lm.chat.continued("ab")]
    assert lm.encode("ab") == text
    assert lm.encode("a", "b") == text
    assert lm.encode((("user", "ab"),)) == HFBackend(source, "float32").encode((("user", "ab"),))
    assert len(lm.activations(["ab"], [0])[0].values[0]) == len(text) - 1  # but for the sink
    bare = HFBackend(lm.source, "float32")
    bare.tokenizer.chat_template = None  # turns are lines then
    assert bare.encode((("user", "ab"),)) == [begin[1], *lm.chat.continued("ab\n")]


def test_a_model_that_padding_changes_is_refused_as_it_loads(tmp_path: Path) -> None:
    """RWKV carries a state over every token, padding too, whatever the mask says."""
    lm = HFBackend(built(tmp_path, "rwkv"), "float32")
    with pytest.raises(BenchError, match=r"cannot run .*: RwkvForCausalLM: padding moves a row's states by"):
        list(lm.generate([Request((("user", "Why?"),))]))
