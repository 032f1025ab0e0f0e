"""Tokens a second of both engines, steered and not, as ratios in one run.

`python benchmarks/engines.py` measures, with the default model and all cores: (1) vLLM with `--rows` requests
that each have a vector × coefficient pair of their own against the same requests unsteered, (2) the same for
the HF backend, (3) a whole sweep (concepts × coefficients × instructions) as one call of each engine, cold and
with a warm prefix cache, against a loop of transformers' `generate` over the instructions of one concept and
coefficient at a time. Stop tokens are off, so that every side writes equally many tokens. The sweep takes
hours on two cores at full size: `--loop-batches` bounds the loop and `--hf-requests` the HF engine, whose
speed does not depend on how long they go on. Writes `engines.json`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import blocks, first, with_first
from bench.backends.models import DEFAULT, resolve
from bench.backends.vllm.backend import VLLMBackend
from bench.core.content import Array
from bench.core.kinds import Add
from bench.core.steering import Steering
from bench.core.store import write_json
from bench.core.values import Request, Sampling
from bench.results import provenance

SUBJECTS = ("rivers", "bread", "the moon", "chess", "bicycles", "winter", "maps", "bees", "tea", "bridges")
FRAMES = ("Tell me something about {}.", "Write a short story in which {} play a part.", "Why do people like {}?")


class EndlessHF(HFBackend):
    """Writes to the last token it may: no token ends an answer."""

    def _ends(self) -> set[int]:
        return {int(self.model.config.vocab_size)}


class EndlessVLLM(VLLMBackend):
    @property
    def ends(self) -> list[int]:  # type: ignore[override]
        return []


class PlainVLLM(EndlessVLLM):
    """A compiled engine as vLLM makes it, with no steering in its graph."""

    def settings(self) -> dict[str, Any]:
        return {k: v for k, v in super().settings().items() if k not in ("worker_cls", "additional_config")}


def instructions(count: int) -> list[str]:
    made = [frame.format(subject) for frame in FRAMES for subject in SUBJECTS]
    return [f"{made[i % len(made)]}{f' ({i})' if i >= len(made) else ''}" for i in range(count)]


def vectors(count: int, width: int, size: float) -> list[Array]:
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((count, width)).astype(np.float32)
    return list(drawn * np.float32(size) / np.linalg.norm(drawn, axis=1, keepdims=True))


def speed(run: Callable[[], int]) -> float:
    """Tokens a second of one run, which returns the tokens it wrote."""
    begun = time.perf_counter()
    tokens = run()
    return tokens / (time.perf_counter() - begun)


def answers(engine: HFBackend | VLLMBackend, requests: Sequence[Request]) -> Callable[[], int]:
    def run() -> int:
        found = dict(engine.generate(requests))
        for i, request in enumerate(requests):
            assert request.steering is None or min(found[i].positions_edited) > 0
        return sum(answer.tokens for answer in found.values())

    return run


def alternate(sides: dict[str, Callable[[], int]], rounds: int) -> dict[str, Any]:
    """Median speed of each side, run in turns so that drift of the machine meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            found[name].append(speed(run))
            print(f"    {name}: {found[name][-1]:.1f} tokens/s", flush=True)
    return {name: {"median": statistics.median(v), "all": [round(x, 2) for x in v]} for name, v in found.items()}


def cold(engine: EndlessVLLM, run: Callable[[], int]) -> Callable[[], int]:
    """The run with an empty prefix cache."""

    def fresh() -> int:
        engine._start(0).reset_prefix_cache()
        return run()

    return fresh


def loop(lm: HFBackend, asks: Sequence[str], pushes: Sequence[Array | None], layer: int, new: int) -> int:
    """What a script does: one hook, one vector at a time, the instructions as one padded batch."""
    inputs, _ = lm.batches.pad([lm.encode((("user", text),)) for text in asks])
    inputs.pop("position_ids")
    tokens = 0
    for push in pushes:
        handles = []
        if push is not None:
            value = torch.from_numpy(push).to(lm.model.device, lm.dtype)

            def hook(_: Any, __: Any, output: Any, value: torch.Tensor = value) -> Any:
                return with_first(output, first(output) + value)

            handles.append(blocks(lm.model)[layer].register_forward_hook(hook))
        with torch.inference_mode():
            pad = lm.tokenizer.pad_token_id
            out = lm.model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=pad)
        for handle in handles:
            handle.remove()
        tokens += out.shape[0] * (out.shape[1] - inputs["input_ids"].shape[1])
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--rows", type=int, default=256, help="requests with a pair of their own")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each of them")
    parser.add_argument("--hf-rows", type=int, default=64, help="the same for the HF engine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument("--coefficients", type=int, default=14)
    parser.add_argument("--instructions", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--loop-batches", type=int, default=4, help="batches of the loop that are timed; 0: all")
    parser.add_argument("--hf-requests", type=int, default=256, help="requests of the sweep timed in HF; 0: all")
    parser.add_argument("--compiled", action="store_true", help="also engines that keep the compiled graph")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = resolve(args.model)
    lm, engine = EndlessHF(model, args.dtype), EndlessVLLM(model, args.dtype, rows=256, context=1024, memory=4.0)
    begun = time.perf_counter()
    warm = Request((("user", "Hello"),), None, Sampling(4, 0.0, 0))
    dict(engine.generate([warm] * 4))
    started = time.perf_counter() - begun
    dict(lm.generate([warm]))
    width, size = engine.width, 60.0
    found: dict[str, Any] = {
        "arguments": {k: str(v) for k, v in vars(args).items() if k != "out"},
        "start_seconds": round(started, 1),
    }

    def pairs(count: int, new: int, steered: bool) -> list[Request]:
        side = max(1, int(np.ceil(count**0.5)))
        pushes = [Steering(edits=(Add(layer=args.layer, value=v),)) for v in vectors(side, width, size)]
        own = [push.scaled(c) for push in pushes for c in np.linspace(0.1, 2, side)][:count]
        sampling = Sampling(new, 0.0, 0)
        return [
            Request((("user", text),), s if steered else None, sampling)
            for text, s in zip(instructions(count), own, strict=True)
        ]

    print("vLLM, each request its own vector × coefficient", flush=True)
    sides = {
        name: cold(engine, answers(engine, pairs(args.rows, args.tokens, name == "steered")))
        for name in ("unsteered", "steered")
    }
    found["vllm"] = alternate(sides, args.rounds)
    print("HF, each row its own vector × coefficient", flush=True)
    sides = {n: answers(lm, pairs(args.hf_rows, args.tokens, n == "steered")) for n in ("unsteered", "steered")}
    found["hf"] = alternate(sides, args.rounds)

    values = vectors(args.concepts, width, size)
    coefficients = np.linspace(0.1, 2, args.coefficients)
    asks = instructions(args.instructions)
    sampling = Sampling(args.new_tokens, 0.0, 0)

    def sweep(steered: bool) -> list[Request]:
        pushes = [Steering(edits=(Add(layer=args.layer, value=v),)) for v in values]
        own = [push.scaled(c) if steered else None for push in pushes for c in coefficients]
        return [Request((("user", text),), s, sampling) for s in own for text in asks]

    print("the sweep", flush=True)
    pushes: list[Array | None] = [np.float32(c) * v for v in values for c in coefficients]
    pushes = pushes[: args.loop_batches or None]
    result: dict[str, float] = {
        "loop steered": speed(lambda: loop(lm, asks, pushes, args.layer, args.new_tokens)),
        "loop unsteered": speed(lambda: loop(lm, asks, [None] * len(pushes), args.layer, args.new_tokens)),
    }
    for name, steered in (("steered", True), ("unsteered", False)):
        requests = sweep(steered)
        result[f"hf {name}"] = speed(answers(lm, requests[: args.hf_requests or None]))
        result[f"vllm {name}, cold cache"] = speed(cold(engine, answers(engine, requests)))
        result[f"vllm {name}, warm cache"] = speed(answers(engine, requests))
    engine.close()
    if args.compiled:
        print("vLLM, compiled", flush=True)
        found["compiled"] = {}
        for label, cls in (("plain", PlainVLLM), ("steering in the graph", EndlessVLLM)):
            other = cls(model, args.dtype, rows=256, context=1024, memory=4.0, compiled=True)
            dict(other.generate([warm] * 4))
            kinds = ("unsteered", "steered") if cls is EndlessVLLM else ("unsteered",)
            sides = {n: cold(other, answers(other, pairs(args.rows, args.tokens, n == "steered"))) for n in kinds}
            found["compiled"][label] = alternate(sides, args.rounds)
            for name in kinds:
                requests = sweep(name == "steered")
                result[f"vllm compiled, {label}, {name}, cold cache"] = speed(cold(other, answers(other, requests)))
            other.close()
    found["sweep"] = {name: round(value, 2) for name, value in result.items()}
    found["ratios"] = {
        "vllm steered / unsteered": round(found["vllm"]["steered"]["median"] / found["vllm"]["unsteered"]["median"], 3),
        "hf steered / unsteered": round(found["hf"]["steered"]["median"] / found["hf"]["unsteered"]["median"], 3),
    }
    if args.compiled:
        plain = found["compiled"]["plain"]["unsteered"]["median"]
        for name, side in found["compiled"]["steering in the graph"].items():
            found["ratios"][f"vllm compiled {name} / compiled without steering"] = round(side["median"] / plain, 3)
            found["ratios"][f"vllm compiled {name} / eager"] = round(side["median"] / found["vllm"][name]["median"], 3)
    found["ratios"] |= {f"{name} / loop steered": round(v / result["loop steered"], 2) for name, v in result.items()}
    write_json(args.out, found | {"provenance": provenance.provenance()})
    for name, value in found["ratios"].items():
        print(f"{name:45} {value}")


if __name__ == "__main__":
    main()
