"""ReFT-r1: one direction that measures the concept and is added as far as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench import Positive, Size, method
from methods._trained import Trained


@method(
    "reft-r1",
    surface="activations",
    paper="arXiv:2501.17148",
    needs=["add", "train"],
    provides=["steering", "detector"],
)
@dataclass(frozen=True)
class ReFTr1(Trained):
    """Rank-1 representation finetuning: a unit vector added in proportion to its own largest activations.

    Equation: h ← h + m·v, m = mean of the `k` largest ReLU(h_i·v) over the text's positions, ‖v‖ = 1 `[H]`,
    trained with the language-model loss on texts with the concept (`both`: and without it) and a penalty
    on the activations outside the `k` largest, `sparsity` times, ramped up; steering h ← h + αv, detection
    max_i h_i·v.
    Deviations from AxBench: texts with the concept alone, since the loss over both sides names neither: in a
    few dozen steps it learns what the two share (docs/training.md), and its shuffled twin would be itself; v
    starts in a random direction, not at the all-ones vector, whose ReLU can be silent on every token; the
    penalty is in units of median ‖h‖ / √H and the rate in those of v's entries, 1 / √H; steps of 2 texts, not
    6. `--compat axbench` has all of these as there, and normalises v between gradient and step; padding is
    never among the `k` largest, which it can be there.
    Reproduction: AxBench reports a steering score of .509 and AUROC .965 (Gemma-2-2B, layer 20).
    """

    own_epochs: ClassVar[int] = 3
    axbench: ClassVar[Mapping[str, Any]] = {"rate": 0.01, "batch": 6, "both": True}

    parametrisation: str = "gated"
    rate: Positive = 0.3
    both: bool = False
    layer: int | float = 0.5
    k: Size = 8
    sparsity: float = 0.005
