"""Speed and memory of the HF engine on a GPU, with random weights in the shape of known models.

Needs torch, transformers and this project, no downloads: `python benchmarks/gpu.py` builds models shaped as
Llama-2-7B and Gemma-2-2B in bf16 and times rows that each have a vector × coefficient of their own against the
same rows unsteered, in turns, every row writing equally many tokens. Prints a table and writes it to
`gpu-NAME.json`, NAME being the GPU's. `--tiny` tries the script on any machine and writes nothing.
"""

from __future__ import annotations

import argparse
import gc
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.backends.models import Model
from bench.core.kinds import Add, Clamp, Project
from bench.core.steering import Steering
from bench.core.store import write_json
from bench.core.values import Request, Sampling
from bench.results import provenance

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-2-7B": (
        "llama",
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
        },
    ),
    "Gemma-2-2B": (
        "gemma2",
        {
            "vocab_size": 256000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "max_position_embeddings": 8192,
        },
    ),
}
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16}


class Shaped(HFBackend):
    """A random model of a given shape with a byte tokenizer; no token ends an answer."""

    def __init__(self, kind: str, shape: dict[str, Any], folder: Path, rows: int) -> None:
        from transformers import AutoConfig

        super().__init__(Model(kind, folder, "random weights", ""), "auto", rows, tokens=1 << 20)
        tiny._tokenizer().save_pretrained(folder)
        self.shape = AutoConfig.for_model(kind, bos_token_id=256, eos_token_id=257, pad_token_id=257, **shape)
        self.__dict__["model"] = self._build()

    def _build(self) -> Any:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.device(device):
            made: Any = AutoModelForCausalLM.from_config(self.shape, dtype=self.dtype)
        return made.eval().requires_grad_(False)

    def _ends(self) -> set[int]:
        return {int(self.shape.vocab_size)}


def kinds(width: int, layer: int, count: int) -> dict[str, list[Steering | None]]:
    """Per kind one steering a row: `count` distinct vector × coefficient pairs."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((count, width)).astype(np.float32)
    units = values / np.linalg.norm(values, axis=1, keepdims=True)
    scales = np.linspace(0.1, 2, count).astype(np.float32)
    return {
        "unsteered": [None] * count,
        "add": [Steering(edits=(Add(layer=layer, value=v * c),)) for v, c in zip(units, scales, strict=True)],
        "project": [
            Steering(edits=(Project(layer=layer, basis=v[None], strength=float(c)),))
            for v, c in zip(units, scales, strict=True)
        ],
        "clamp": [
            Steering(edits=(Clamp(layer=layer, read=v, write=v, target=float(c)),))
            for v, c in zip(units, scales, strict=True)
        ],
    }


def measure(lm: Shaped, steerings: list[Steering | None], prompt: int, new: int) -> tuple[float, float]:
    """(tokens a second, peak GiB on the GPU) of one batch."""
    text = "".join(chr(97 + i % 26) for i in range(prompt))
    requests = [Request((("user", f"{i:04d}{text}"),), s, Sampling(new, 0.0, 0)) for i, s in enumerate(steerings)]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    begun = time.perf_counter()
    tokens = sum(answer.tokens for _, answer in lm.generate(requests))
    seconds = time.perf_counter() - begun  # the answers are on the host: nothing is still running
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    return tokens / seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--prompt", type=int, default=64, help="characters, which are tokens here")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.rows, args.tokens, args.rounds = [4], 8, 2
    table: list[dict[str, Any]] = []
    for name, (kind, shape) in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            lm = Shaped(kind, shape | TINY if args.tiny else shape, Path(folder), max(args.rows))
            for rows in args.rows:
                sides = kinds(lm.shape.hidden_size, lm.shape.num_hidden_layers // 2, rows)
                found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
                measure(lm, sides["unsteered"], args.prompt, 4)  # warm
                for _ in range(args.rounds):
                    for side, steerings in sides.items():
                        found[side].append(measure(lm, steerings, args.prompt, args.tokens))
                bare = statistics.median(speed for speed, _ in found["unsteered"])
                for side, runs in found.items():
                    speed = statistics.median(speed for speed, _ in runs)
                    table.append(
                        {
                            "model": name,
                            "rows": rows,
                            "steering": side,
                            "tokens_per_second": round(speed, 1),
                            "to_unsteered": round(speed / bare, 3),
                            "peak_gib": round(max(peak for _, peak in runs), 2),
                        }
                    )
                    print("  ".join(f"{key} {value}" for key, value in table[-1].items()), flush=True)
            del lm
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    if torch.cuda.is_available() and not args.tiny:
        gpu = torch.cuda.get_device_name()
        path = Path(__file__).parent / f"gpu-{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}.json"
        write_json(path, {"gpu": gpu, "table": table, "provenance": provenance.provenance()})
        print(f"written to {path.name}")


if __name__ == "__main__":
    main()
