"""SSV: a vector trained so that the model writes the concept's texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bench import method
from methods._trained import Trained


@method(
    "ssv",
    surface="activations",
    paper="arXiv:2501.17148",
    needs=["add", "train"],
    provides=["steering", "detector"],
)
@dataclass(frozen=True)
class SSV(Trained):
    """Supervised steering vector: one added vector, trained with the language-model loss.

    Equation: min_w -mean_t log p(y_t | x, y_<t; h ← h + μw) over texts with the concept, w `[H]` after
    block `layer`, μ = median ‖h‖ / √H; steering h ← h + αw, detection max_i h_i·w.
    Deviations from AxBench: lengths and the rate are in units of μ, so that they mean the same on every
    model; steps of 2 texts, not 6, since there are fewer; a random start, not a constant one, and clipped
    gradients. `--compat axbench` has all of these as there.
    Reproduction: AxBench reports a steering score of .001 and AUROC .950 (Gemma-2-2B, layer 20).
    """

    own_epochs: ClassVar[int] = 3
    axbench: ClassVar[Mapping[str, Any]] = {"rate": 0.01, "batch": 6, "start": "constant", "clip": math.inf}

    layer: int | float = 0.5
    init: float = 0.01
    start: Literal["normal", "constant", "uniform"] = "normal"
