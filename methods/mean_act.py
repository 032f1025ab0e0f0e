"""Mean-AcT: the transport that moves every dimension and stretches none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench import Array, method
from methods.linear_act import LinearAcT


@method("mean-act", surface="activations", paper="arXiv:2410.23054", needs=["diagonal"], one_way=False)
@dataclass(frozen=True)
class MeanAcT(LinearAcT):
    """Moves each dimension by the difference of mean states with and without the concept.

    Equation: that of `linear-act` with ω = 1 and no mask: h ← h + c·(mean b - mean a), each text counting once. At
    one block it is the direction of `diffmean`, counted by texts and not by tokens, at its own length: c = 1 is the
    whole difference, which is short of what steers; over many blocks it adds up.
    Deviations: as for `linear-act`.
    Reproduction: the paper reports RealToxicityPrompts and TruthfulQA, no AxBench row; not compared.
    """

    mask: bool = False

    def gain(self, source: Array, target: Array) -> Array:
        return np.ones(source.shape[1], np.float32)
