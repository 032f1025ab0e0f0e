"""Methods of the literature that are not here under that name: what stands for them, or why nothing does.

Invariant: no registered method is named here (a test holds it).
"""

from __future__ import annotations

import re

_SEVERAL = "it decodes with several models at once, and a run here has one model"
_TOKENS = "it decodes by scoring partial answers with a trained classifier, which no engine here does"

ELSEWHERE: dict[str, str] = {
    "dexperts": _SEVERAL,
    "contrastive-decoding": f"{_SEVERAL}; contrast of two prompts on one model is prompt-strength",
    "proxy-tuning": _SEVERAL,
    "fudge": _TOKENS,
    "gedi": _TOKENS,
    "pplm": "it takes gradient steps at every token; k-steering takes such a step on a classifier of states",
    "cfg": "classifier-free guidance of a prompt is prompt-strength",
    "classifier-free-guidance": "it is prompt-strength",
    "prompt-cd": "it is prompt-strength with against = negative",
    "persona-cd": "it is prompt-strength",
    "dola": "it contrasts a model's own layers and steers to no concept",
    "adasteer": "its coefficients depend on who shares a batch, and here a row's answer must not",
    "pasta": "biases of attention logits are no edit that an engine here has",
    "spotlight": "biases of attention logits are no edit that an engine here has",
    "gcad": "it edits what heads give by their queries, which no engine here reads",
    "icv": "its direction is the mean difference of last states: diffmean, or spherical with lengths kept",
    "function-vectors": "they need a patching pass for each head of a task's examples; iti picks heads by probes",
    "sae-ts": "it needs thousands of steered generations for its effects",
    "chars": "it is an edit of kind Scaled with softmax; no method fits its transport yet",
    "lineas": "linear-act fits its maps one by one; training them together is not here yet",
    "midsteer": "its edit is of kind Scaled; no method fits it yet",
    "leace": "its edit is of kind Scaled; ablate takes out the mean difference",
    "inlp": "ablate takes out one direction; no method here repeats it",
    "prefix-tuning": "soft-prompt trains embeddings; keys and values of a prefix are no edit here",
    "prompt-tuning": "it is soft-prompt",
    "task-vectors": "weight-steering takes the difference of two adapters",
    "weight-arithmetic": "it is weight-steering",
    "rlhf": "rewards need generations of the judged kind in training, which equal budgets leave no room for",
    "ppo": "rewards need generations of the judged kind in training, which equal budgets leave no room for",
    "grpo": "rewards need generations of the judged kind in training, which equal budgets leave no room for",
    "persona-vectors": "they are persona",
    "assistant-axis": "it is capping",
    "activation-addition": "it is actadd",
    "contrastive-activation-addition": "it is caa",
    "representation-engineering": "it is repe, repe-contrast, repeng or lorra",
    "inference-time-intervention": "it is iti",
    "mean-difference": "it is diffmean",
    "few-shot": "it is prompt-fewshot",
    "in-context-learning": "it is prompt-fewshot or prompt-manyshot",
    "ape": "it is prompt-search",
    "dspy": "prompts that a language model improves are prompt-search and prompt-engineered",
    "angular-steering": "it is angular",
    "spherical-steering": "it is spherical",
    "act": "activation transport is linear-act and mean-act",
    "conceptors": "they are conceptor",
    "activation-capping": "it is capping",
}
"""Name -> one clause."""


def reason(name: str) -> str:
    """Why a method of that name is not here, or what it is called; "" for a name that is not known."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return ELSEWHERE.get(plain, "")
