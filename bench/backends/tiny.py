"""A tiny random causal language model with a byte tokenizer, made on the spot: no download, no cache.

Invariant: the same kind and seed give the same weights; it has a chat template with a shared header,
an attention sink and a pad token equal to its end token, as the default model has.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends.models import Model, resolve

if TYPE_CHECKING:
    from bench.backends.hf.backend import HFBackend

KINDS = ("llama", "qwen2", "gemma2")
TEMPLATE = (
    "{{ '<s>system\\nYou help.</s>' }}"
    "{% for m in messages %}{{ '<s>' + m['role'] + '\\n' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)


def build(folder: Path, kind: str = "llama", seed: int = 0, layers: int = 4, width: int = 32) -> Model:
    """Write a random model of `kind` with `layers` blocks and hidden size `width` to `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": 260,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 257,
    }
    if kind == "gemma2":
        shape |= {"head_dim": width // 4, "sliding_window": 64, "query_pre_attn_scalar": width // 4}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **shape)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # wider logits than the default initialisation: texts differ between prompts
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(4.0 if "embed" in name else 2.0)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return resolve(str(folder))


def engine(folder: Path, kind: str = "llama", seed: int = 0) -> HFBackend:
    """A backend on a tiny model in fp32."""
    from bench.backends.hf.backend import HFBackend

    return HFBackend(build(folder, kind, seed), dtype="float32")


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: i for i, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = TEMPLATE
    return fast
