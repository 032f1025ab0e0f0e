"""Imported: someone else's vectors or flow, from a file or a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench import (
    Add,
    BenchError,
    ConceptFlow,
    Context,
    Fitted,
    Method,
    Size,
    Span,
    Steering,
    Train,
    UsageError,
    interchange,
    method,
)
from bench.backends.models import sha256
from bench.core.content import digest
from methods._directions import DirectionDetector


@method(
    "imported",
    surface="activations",
    paper="arXiv:2310.01405",
    views=(),
    needs=["add"],
    provides=["steering", "detector"],
)
@dataclass(frozen=True)
class Imported(Method):
    """The vectors of a file that another program wrote, the same for every concept; or of a folder with one a concept.

    `path` is a GGUF control vector (repeng, llama.cpp), a `.pt` of lm-eval's `steered` model, a mapping
    from layer to vector (steering-vectors), or a `.safetensors` of `bench export`; `format` names it where
    the suffix does not. A folder that `bench export` wrote has a file for each concept, found by its name; a concept
    without one fails the run, and `--concept NAME` runs one that has. `hf://OWNER/NAME[/PATH]` is a file or folder of a
    model repository on the Hugging Face hub. A `.pt` or `.safetensors` of one bare vector needs `layer`. So does a
    `.safetensors` of FLAS (arXiv 2605.05892), one without self-attention: each concept has its own steering then, from
    its words, in `steps` steps. A run is identified by the file's name and SHA-256, not its folder (a folder by its
    files'); to replay one from elsewhere, name the file again (`-p imported.path=FILE`).

    Equation: h ← h + c·v_l for each layer l the file holds, all v_l `[H]` scaled by one factor to the
    protocol's unit, as added vectors are; detection max_i h_i·v_m/‖v_m‖ at the middle layer m.
    Deviations from those programs: a file's own strength is not used, so that a coefficient means what it
    means for the other methods; what every chat begins with, the first token
    included, is steered only under `sink = true`.
    Reproduction: none of its own; a file of `bench export` steers as the method that made it.
    """

    path: str = ""
    format: str = ""
    layer: int | None = None
    """Where a file holds one bare vector, or a flow: the block at whose output it acts, counted from 0 (below 0: from
    the end)."""
    steps: Size = 3
    """Where a file holds a flow: the steps it is followed in, as many as it was trained with."""
    sink: bool = False
    sha256: str = ""
    """Where given, the file must have it: a replay cannot take another file of the same name."""
    named: ClassVar[bool] = True
    """Runs only when it is named: without a path there is nothing to run."""

    def params(self) -> dict[str, Any]:
        """The fields, with the file's name for its path and what it holds as `sha256`."""
        found = super().params()
        return found | {"path": Path(self.path).absolute().name, "sha256": self._digest()} if self.path else found

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        if not self.path:
            raise BenchError("no file is given: -p imported.path=FILE (.gguf, .safetensors or .pt)")
        self._digest()
        place = interchange.located(self.path)
        file = interchange.of_concept(place, train.concept.id) if place.is_dir() else place
        from bench.backends.hf.flow import is_flow  # loads torch

        if is_flow(file):
            return [self._flow(ctx, train, file)]
        steering = interchange.load(file, self.format, self.sink, self.layer)
        edits = tuple(dataclasses.replace(edit, layer=ctx.layer(edit.layer)) for edit in steering.edits)
        added = [e for e in edits if isinstance(e, Add) and e.site == "resid" and e.value.ndim == 1]
        note = {"layers": [e.layer for e in edits], "raw_norms": [float(np.linalg.norm(e.value)) for e in added]}
        steering = dataclasses.replace(steering, edits=edits)
        if not added:
            return [Fitted(steering, None, note)]
        middle = added[len(added) // 2]
        width = ctx.read([(("user", "Hello."),)], middle.layer)[0].values[middle.layer].shape[1]
        if len(middle.value) != width:
            raise BenchError(f"{file.name} has vectors of {len(middle.value)} values, the model {width}")
        unit = middle.value / np.linalg.norm(middle.value)
        return [Fitted(steering, DirectionDetector(middle.layer, unit.astype(np.float32)), note)]

    def _flow(self, ctx: Context, train: Train, file: Path) -> Fitted:
        """The steering of a published flow to a concept, from its words."""
        from bench.backends.hf.flow import concept_states, published

        if self.layer is None:
            raise BenchError(f"{file.name} does not say at which layer: add -p imported.layer=N")
        key = f"flow {sha256(file)}"
        if key not in ctx.shared:  # one network for all concepts
            ctx.shared[key] = published(file, ctx.lm)
        net, activation = ctx.shared[key]
        condition = concept_states(ctx.lm, train.concept.text)
        flow = ConceptFlow(
            layer=ctx.layer(self.layer),
            span=Span(sink=self.sink),
            net=net,
            condition=condition,
            activation=activation,
            steps=self.steps,
        )
        return Fitted(Steering(edits=(flow,)), None, {"layer": flow.layer, "parameters": net.size})

    def _digest(self) -> str:
        """SHA-256 of the file; of a folder, the digest of those of its files."""
        place = interchange.located(self.path)
        files = interchange.steering_files(place) if place.is_dir() else []
        if not (files or place.is_file()):
            raise UsageError(f"imported.path = {self.path!r} is no file here: name it with -p imported.path=FILE")
        found = digest({path.name: sha256(path) for path in files}) if files else sha256(place)
        if self.sha256 not in ("", found):
            name = Path(self.path).name
            raise UsageError(f"{name} is not the file of that run: SHA-256 {found[:12]}…, not {self.sha256[:12]}…")
        return found
