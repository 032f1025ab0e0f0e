"""LoRRA: an adapter that brings states to where a contrast of personas points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import LayerSpec, Positive, Size, method
from methods._trained import Trained


@method(
    "lorra",
    surface="weights",
    paper="arXiv:2310.01405",
    views=["texts", "personas"],
    needs=["delta", "train"],
    provides=["steering"],
)
@dataclass(frozen=True)
class LoRRAMethod(Trained):
    """Low-rank representation adaptation towards a contrast of personas.

    Equation: mean over layers and response tokens of ‖h - (h₀ + `contrast`·(h⁺ - h⁻))‖ / ‖h₀‖, h± the bare
    model's states of the same response under the concept's persona and its opposite; LoRA on q and v.
    Deviations: relative norms; no PCA term (off in the code too); no dropout; answers without the concept
    in place of Alpaca's.
    Reproduction: the paper lifts TruthfulQA MC1 of Llama-2-7B, below its contrast vectors; no AxBench row.
    """

    own_epochs: ClassVar[int] = 16
    parametrisation: str = "lora"
    objective: str = "lorra"
    rate: Positive = 5e-3
    layers: tuple[LayerSpec, ...] = ("0.1:0.55",)
    modules: tuple[str, ...] = ("attn-query", "attn-value")
    rank: Size = 8
    alpha: Positive = 16.0
    rslora: bool = False
    contrast: float = 5.0
    targets: tuple[float, ...] = (0.35, 0.45, 0.55)
