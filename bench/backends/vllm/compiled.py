"""A vLLM worker whose compiled graph has steering in it: one opaque operation behind every decoder layer.

Hooks must be there before the model is traced, so this worker hooks it as it is loaded. Invariant: the
operation is traced into every graph and asks at run time what there is to do; a graph compiled without it
is never taken from the compile cache, because the engine's configuration names it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vllm.platforms import current_platform

from bench.backends.vllm.packed import running
from bench.backends.vllm.worker import SteeringExtension, decoder_layers

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
else:
    from vllm.v1.worker.gpu_worker import Worker


@torch.library.custom_op("bench::steer", mutates_args=("hidden",))
def steer(hidden: Tensor, residual: Tensor, layer: int) -> None:
    """Edit the stream hidden + residual behind decoder layer `layer`, in `hidden`."""
    if running:
        running[0].apply(layer, 0, hidden, residual)


@steer.register_fake
def _(hidden: Tensor, residual: Tensor, layer: int) -> None:
    return None


class CompiledWorker(Worker, SteeringExtension):  # type: ignore[misc, unused-ignore]
    """The platform's worker, with hooks on the model before anything is traced.

    The extension is a base of its own: vLLM refuses to inject it where the platform's worker got it from an
    earlier engine of this process.
    """

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        found = super().load_model(*args, **kwargs)
        runner = self.model_runner
        count = runner.model_config.hf_config.get_text_config().num_hidden_layers
        for layer, block in enumerate(decoder_layers(runner.get_model(), count)):
            block.register_forward_hook(_traced(layer))
        return found


def _traced(layer: int) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        torch.ops.bench.steer(output[0], output[1], layer)

    return hook
