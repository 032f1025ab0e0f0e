"""Soft prompt: a prompt's embeddings, trained so that the model writes the concept's texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import Positive, Size, method
from methods._trained import Trained
from methods.prompt import LINES


@method("soft-prompt", surface="activations", paper="arXiv:2104.08691", needs=["embeds", "train"], one_way=True)
@dataclass(frozen=True)
class SoftPromptMethod(Trained):
    """Prompt tuning: trained rows in place of a prompt's words, read before the user's own.

    Equation: min_E -mean_t log p(y_t | E, x, y_<t) over texts with the concept, E `[size, H]` read as embeddings
    between what every chat begins with and the user's words; E starts at the embeddings of the first wording that
    `prompt` tries, cut or repeated to `size` tokens, so that training begins where that prompt is. It has no strength
    and no opposite: it is tried once, and tasks that suppress a concept refuse it.
    Deviations: the paper trains 100 rows by Adafactor at rate .3 on whole datasets of tasks and shows that the start
    matters little for large models; here 20 rows, by the house's trainer, on a concept's few texts; `rate` is in units
    of an embedding's entries (mean ‖e‖ / √H). Prefix tuning (2101.00190), which gives every layer keys and values of
    its own, is not this.
    Reproduction: the paper reports SuperGLUE on T5; neither it nor AxBench has a row to compare with.
    """

    own_epochs: ClassVar[int] = 3

    parametrisation: str = "soft"
    rate: Positive = 0.3
    size: Size = 20
    opening: str = LINES[0].prefix
