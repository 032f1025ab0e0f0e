"""SFT: every weight trained on the concept's texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench import LayerSpec, Positive, method
from methods._trained import Trained


@method(
    "sft",
    surface="weights",
    paper="arXiv:2501.17148",
    needs=["delta", "train"],
    provides=["steering"],
    named=True,
)
@dataclass(frozen=True)
class SFTMethod(Trained):
    """Full fine-tuning on texts with the concept.

    Equation: W = W0 + cΔW, every entry of every linear module free, trained at c = 1 with the language-model
    loss; steering at other c is interpolation between the two models.
    Deviations from AxBench: embeddings and norms stay; one optimiser state per concept, not a shared run.
    Runs when named: a fit holds the model's weights again for each concept (425 MB with the default model).
    Reproduction: AxBench reports .714 (Gemma-2-2B, layer 20), for its first 20 concepts.
    """

    own_epochs: ClassVar[int] = 8
    axbench: ClassVar[Mapping[str, Any]] = {"rate": 4e-5, "batch": 18, "batches": 4}

    parametrisation: str = "full"
    rate: Positive = 1e-4
    layers: tuple[LayerSpec, ...] = ("0.0:-1",)
    modules: tuple[str, ...] = ()
