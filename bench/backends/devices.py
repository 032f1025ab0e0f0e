"""Which device computes: the best that this machine has, or several that a model is spread over.

Invariant: where a part of a model lies changes speed and rounding alone, so that it is in no key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways to spread a model over devices, as accelerate names them; any other map names modules."""


def best() -> str:
    """The kind of device that models run on: `cuda`, `mps` (a Mac's GPU), or `cpu`."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def name() -> str:
    """What the first device of that kind is called."""
    import torch

    return torch.cuda.get_device_name(0) if best() == "cuda" else best()


def spread(model: Any) -> bool:
    """Whether accelerate carries a model's parts to the devices that compute them."""
    return hasattr(model, "_hf_hook") or any(hasattr(module, "_hf_hook") for module in model.modules())


def of(model: Any) -> torch.device:
    """Where the inputs of a model belong and its logits come out. What waits in the machine's memory or on its disk is
    computed on the first other device, if there is one."""
    import torch

    places = getattr(model, "hf_device_map", None)
    if not places:
        held: torch.device = next(iter(model.parameters())).device
        return held
    return torch.device(next((place for place in places.values() if place not in ("cpu", "disk")), "cpu"))


def emptied() -> None:
    """Give back the memory that the allocator keeps for itself."""
    import torch

    if best() == "cuda":
        torch.cuda.empty_cache()
    elif best() == "mps":
        torch.mps.empty_cache()
