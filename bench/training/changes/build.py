"""Which module of parameters does what a parametrisation's settings say."""

from __future__ import annotations

from bench.training.changes.adapters import DoRAChange, FullChange, LoRAChange, PiSSAChange
from bench.training.changes.base import Change
from bench.training.changes.flow import FlowChange
from bench.training.changes.focused import FocusedChange
from bench.training.changes.prompts import SoftPromptChange
from bench.training.changes.spectral import BoundedRotationChange, SSVDChange, SVFTChange
from bench.training.changes.vectors import GatedChange, HyperChange, LoReFTChange, VectorChange
from bench.training.parametrisations import Parametrisation

CHANGES: dict[str, type[Change]] = {
    "vector": VectorChange,
    "gated": GatedChange,
    "hyper": HyperChange,
    "psr": FocusedChange,
    "flow": FlowChange,
    "loreft": LoReFTChange,
    "lora": LoRAChange,
    "dora": DoRAChange,
    "pissa": PiSSAChange,
    "svft": SVFTChange,
    "ssvd": SSVDChange,
    "rotation": BoundedRotationChange,
    "full": FullChange,
    "soft": SoftPromptChange,
}
"""By the name a parametrisation is registered under."""


def change_of(form: Parametrisation) -> type[Change]:
    """The class that holds the parameters of `form` and applies them."""
    return CHANGES[form.name]
