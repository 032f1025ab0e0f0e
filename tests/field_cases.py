"""What the tests of velocity fields share: fields at random, and what they make of states."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.core.content import Weights
from bench.core.edits import Edit
from bench.core.fields import TIME_NAMES, ConceptFlow, Field, NetworkField, QuadraticField, flow_names

H, D = 16, 4
RNG = np.random.default_rng(0)
PLAIN = ("frequencies", "eps", "softcap")


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def flow_net(width: int = H, heads: int = 4, keys: int = 2, fed: int = 24, blocks: int = 1, size: int = D) -> Weights:
    """A flow's weights at random, in the published names."""
    time = ((width, 128), (width,), (width, width), (width,))
    shapes: dict[str, tuple[int, ...]] = dict(zip(TIME_NAMES, time, strict=True))
    ends = {
        "q_proj.weight": (heads * size, width),
        "o_proj.weight": (width, heads * size),
        "up_proj.weight": (fed, width),
    }
    ends |= {f"{name}_proj.weight": (keys * size, width) for name in "kv"}
    ends |= {"gate_proj.weight": (fed, width), "down_proj.weight": (width, fed)}
    ends |= {f"{name}_norm.weight": (size,) for name in ("attn.q", "attn.k")}
    for name in (name for block in range(blocks) for name in flow_names(block)):
        shapes[name] = next((shape for end, shape in ends.items() if name.endswith(end)), (width,))
    found = {name: drawn(*shape) / max(1, shape[-1]) ** 0.5 for name, shape in shapes.items()}
    found |= {name: 1 + 0.1 * drawn(*shape) for name, shape in shapes.items() if "norm" in name}
    frequencies = (10000.0 ** (-np.arange(size // 2) / (size // 2))).astype(np.float32)
    numbers = {name: np.asarray(value, np.float32) for name, value in (("eps", 1e-6), ("softcap", 0.0))}
    return Weights(found | numbers | {"frequencies": frequencies})


def flow(tokens: int = 3, **values: Any) -> ConceptFlow:
    return ConceptFlow(**{"layer": 1, "net": NET, "condition": drawn(tokens, H), "steps": 3} | values)


def quadratic(rows: int = 3, **values: Any) -> QuadraticField:
    parts = {"basis": np.linalg.qr(drawn(H, rows))[0].T, "weights": drawn(rows), "linear": drawn(H)} | values
    return QuadraticField(**{"layer": 1, "steps": 10} | parts)


def network(**values: Any) -> NetworkField:
    parts = {"first": drawn(8, H), "first_bias": drawn(8), "second": drawn(8, 8), "second_bias": 20 + drawn(8)}
    return NetworkField(**{"layer": 1, "last": drawn(8)} | parts | values)


NET = flow_net()
KINDS: dict[str, Field] = {"quadratic": quadratic(), "network": network(steps=2), "flow": flow()}


def changed(edit: Edit, h: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
    """States `[N, H]` after the edit, each at the index that it stands at."""
    p = {name: torch.as_tensor(value)[None] for name, value in edit.operands().items()}
    p |= {name: torch.as_tensor(value) for name, value in edit.common().items()}
    return h + edit.change(h, p | {"index": torch.arange(len(h)) if index is None else index}, edit.flags())
