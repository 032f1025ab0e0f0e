"""PSR: what a prompt does to states, learnt as gated vectors at every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import LayerSpec, Positive, Size, method
from methods._trained import Trained


@method("psr", surface="activations", paper="arXiv:2605.03907", needs=["scaled", "train"], provides=["steering"])
@dataclass(frozen=True)
class PSR(Trained):
    """Prompt steering replacement: vectors after all blocks, each added as far as the token's state says.

    Equation: h ← h + α·ReLU(w_l·h + b_l)·z_l after every block l of `layers`, from the last prompt token on; w, z
    `[H]`. It is taught on responses with the concept: min Σ_l Σ_i ‖A - A'‖² / ‖A₀ - A'‖², A the steered states of a
    response after its bare question, A₀ the bare ones, A' those after the question under the prompt (`objective` =
    teacher; `lm` takes the response's likelihood). `gate` = false holds the ReLU at 1: the paper's A-const.
    Deviations: the responses are the training texts, not the prompted model's own as judges filter them; states are
    compared after `targets`, not after every block; no penalty on silent gates; the prompt is one line,
    since a fit does not know which wording the judge will favour.
    Reproduction: the paper reports .871 (all layers, states) and .618 (one layer, likelihood) on Gemma-2-2B, layer 20,
    beside prompts at .731; not compared.
    """

    own_epochs: ClassVar[int] = 15
    parametrisation: str = "psr"
    objective: str = "teacher"
    rate: Positive = 0.008
    batch: Size = 2
    layers: tuple[LayerSpec, ...] = ("0.0:-1",)
    gate: bool = True
    targets: tuple[float, ...] = (0.25, 0.5, 0.75, 0.999)
