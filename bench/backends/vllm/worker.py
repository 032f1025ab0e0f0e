"""What runs inside a vLLM worker: named calls that take steerings, and hooks that apply them.

Mixed into the worker through `worker_extension_cls`; nothing of vLLM is patched on disk. Both model
runners are served: V1 (the CPU build) and V2 (the default on GPUs), told apart by what they have.
Invariant: a request that asks for steering and does not get it is an error, never a silent no-op.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from safetensors.torch import load
from torch import Tensor, nn

from bench.backends.hf.modules import site_of
from bench.backends.vllm.packed import FIELD, SITES, Packed, run_with
from bench.core.errors import BenchError


class SteeringExtension:
    """Methods of the worker, called by name. All of them start with `bench_`: names may not clash."""

    model_runner: Any

    def bench_install(self, compiled: bool = False) -> str:
        """Hook the decoder layers and the runner's input preparation; returns which runner it is.

        A compiled engine was hooked as its model was loaded: its graph asks for `packed`.
        """
        runner, model = self.model_runner, self.model_runner.get_model()
        config = runner.model_config.hf_config.get_text_config()
        packed = Packed(runner.device, config.hidden_size)
        self.steering = packed
        if compiled:
            run_with(packed)
            return watch(runner, packed)
        layers = decoder_layers(model, config.num_hidden_layers)
        for layer, block in enumerate(layers):
            for site, name in enumerate(SITES):
                try:
                    module = site_of(block, name)
                except BenchError:
                    continue  # an edit at this site will touch nothing, which is an error
                module.register_forward_hook(partial(_hook, packed, layer, site))
        return watch(runner, packed)

    def bench_register(self, message: bytes) -> int:
        """Take steerings (`Wire.message`); returns the bank's rows in use."""
        self.steering.register(load(message))
        return self.steering.filled

    def bench_touched(self, numbers: list[int], limits: list[int]) -> list[list[int] | str]:
        """Per request the positions each edit changed, or what went wrong; the request is forgotten."""
        return [self.steering.positions_edited(n, limit) for n, limit in zip(numbers, limits, strict=True)]

    def bench_clear(self) -> None:
        """Forget all steerings; no request may be running."""
        self.steering.clear()


def decoder_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """The decoder layers of a vLLM model."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and name.split(".")[-1] in ("layers", "h"):
            return module
    raise BenchError(f"found no list of {count} decoder layers in {type(model).__name__}")


def _hook(packed: Packed, layer: int, site: int, module: nn.Module, _: Any, output: Any) -> None:
    """Change a layer's output in place. A decoder layer gives the stream, or (hidden, residual) that sum to it."""
    if packed.step is None:
        return
    if isinstance(output, Tensor):
        packed.apply(layer, site, output)
        return
    split = site == 0 and isinstance(output, tuple) and len(output) == 2
    if not (split and all(isinstance(part, Tensor) for part in output) and output[0].shape == output[1].shape):
        raise BenchError(f"{type(module).__name__} gives no hidden states that are known how to steer")
    packed.apply(layer, site, *output)


def watch(runner: Any, packed: Packed) -> str:
    """Lay out every step right after the runner has settled its batch; earlier would see the last one."""
    if hasattr(runner, "_prepare_inputs") and hasattr(runner, "input_batch") and hasattr(runner, "requests"):
        _watch_v1(runner, packed)
        return "V1"
    if hasattr(runner, "prepare_inputs") and hasattr(runner, "add_requests") and hasattr(runner, "req_states"):
        _watch_v2(runner, packed)
        return "V2"
    raise BenchError(f"{type(runner).__module__}.{type(runner).__name__} is no model runner that is known")


def _watch_v1(runner: Any, packed: Packed) -> None:
    prepare = runner._prepare_inputs

    def wanted(name: str) -> Sequence[int] | None:
        return _field(runner.requests[name].sampling_params)

    def prepared(scheduler_output: Any, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        found = prepare(scheduler_output, scheduled, *args, **kwargs)
        batch = runner.input_batch
        count = batch.num_reqs
        packed.begin(batch.req_ids[:count], scheduled, batch.num_computed_tokens_cpu[:count], wanted)
        return found

    runner._prepare_inputs = prepared


def _watch_v2(runner: Any, packed: Packed) -> None:
    """This runner drops a request's parameters once it is added: keep the one field."""
    fields: dict[str, Sequence[int]] = {}
    prepare, add = runner.prepare_inputs, runner.add_requests

    def added(scheduler_output: Any) -> Any:
        for new in scheduler_output.scheduled_new_reqs:
            if found := _field(new.sampling_params):
                fields[new.req_id] = found
        return add(scheduler_output)

    def prepared(*args: Any, **kwargs: Any) -> Any:
        batch = prepare(*args, **kwargs)
        count = batch.num_reqs
        computed = np.asarray(batch.num_computed_tokens_np[:count])
        packed.begin(batch.req_ids[:count], batch.num_scheduled_tokens[:count], computed, fields.get)
        for name in [name for name in fields if name in packed.rows]:
            del fields[name]
        return batch

    runner.add_requests, runner.prepare_inputs = added, prepared


def _field(params: Any) -> Sequence[int] | None:
    found: Sequence[int] | None = (getattr(params, "extra_args", None) or {}).get(FIELD)
    return found
