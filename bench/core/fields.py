"""Kinds of edit that follow a velocity field: a state moves in small steps, each to where the field points by then.

    h ← h + Σ_{k<N} (T/N)·v(h, t_k), t_k = k·T/N

N is `steps`, T is `time`, and c multiplies T. A field of unit speed moves a state by |T| at most, so that its
coefficients are lengths, as an added vector's are; a field that was trained has its own speed.

Invariant: a field changes a token by that token's own state and index alone, and T = 0 is the identity.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from bench.core.content import Array, Weights
from bench.core.edits import Edit, Unit, Work, edit
from bench.core.errors import BenchError
from bench.core.kinds import _in, _out

if TYPE_CHECKING:
    from torch import Tensor

STEPS = "steps="
"""Before the number of steps among the flags: edits of as many run together."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Field(Edit):
    """A velocity field followed for the time T in N Euler steps; subclasses say which."""

    steps: int = 1
    time: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"{type(self).__name__}.steps = {self.steps}, must be at least 1")

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, time=self.time * c)

    def operands(self) -> dict[str, Array]:
        found = super().operands()
        del found["steps"]
        return found

    def flags(self) -> frozenset[str]:
        return super().flags() | {f"{STEPS}{self.steps}"}


def followed(h: Tensor, p: Mapping[str, Tensor], flags: Set[str], velocity: Callable[[Tensor, int], Tensor]) -> Tensor:
    """How far states `h` `[..., H]` move in all steps; `velocity` gives v at states in step k."""
    import torch

    steps = next(int(flag.removeprefix(STEPS)) for flag in flags if flag.startswith(STEPS))
    share = (p["time"] / steps)[..., None]
    moved = torch.zeros_like(h)
    for k in range(steps):
        moved = moved + share * velocity(h + moved, k)
    return moved


def _unit(v: Tensor) -> Tensor:
    """`v` `[..., H]` at length 1; nothing stays nothing."""
    found: Tensor = v / v.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return found


class UnitSpeed(Field):
    """A field of speed 1: |T| is how far it moves a state at most."""

    @property
    def unit(self) -> Unit:
        return "length"

    def length(self) -> float:
        return abs(self.time)


@edit("quadratic-field")
@dataclass(frozen=True, eq=False, kw_only=True)
class QuadraticField(UnitSpeed):
    """v = ∇f/‖∇f‖ of f(h) = Σ_k w_k (u_k·x)² + q·x at x = h/‖h‖: up a classifier of degree 2 (arXiv 2602.17560).

    `basis` holds u `[k, H]`, `weights` w `[k]`, `linear` q `[H]`. f sees the direction of h alone, so that v stands
    at right angles to h and the length of h changes only by what steps cut off its turn.
    """

    basis: Array
    weights: Array
    linear: Array

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.basis.shape != (len(self.weights), len(self.linear)):
            shapes = f"{self.basis.shape}, {self.weights.shape} and {self.linear.shape}"
            raise ValueError(f"QuadraticField takes basis [k, H], weights [k] and linear [H], not {shapes}")

    def length(self) -> float:
        if not (self.linear.any() or (self.basis * self.weights[:, None]).any()):
            raise BenchError(f"the classifier at layer {self.layer} is flat: it leads nowhere")
        return super().length()

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        def velocity(state: Tensor, _: int) -> Tensor:
            x = _unit(state)
            slope = 2 * _out(p["weights"] * _in(x, p["basis"]), p["basis"]) + p["linear"]
            return _unit(slope - (slope * x).sum(-1, keepdim=True) * x)

        return followed(h, p, flags, velocity)

    def work(self) -> Work:
        # A step: two products with u; a norm, x, q, the part along x and its removal, another norm, and the push.
        hidden, held = len(self.linear), self.basis.size + len(self.weights) + len(self.linear)
        return Work(self.steps * (4 * self.basis.size + 12 * hidden), held, held)


@edit("network-field")
@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkField(UnitSpeed):
    """v = ∇f/‖∇f‖ of f(h) = c·ReLU(B·ReLU(A h + a) + b): up the logit of a small classifier (arXiv 2505.24535).

    `first` is A `[m, H]`, `first_bias` a `[m]`, `second` B `[n, m]`, `second_bias` b `[n]`, `last` c `[n]`. The
    gradient is written out, since engines answer where torch records none.
    """

    first: Array
    first_bias: Array
    second: Array
    second_bias: Array
    last: Array

    def __post_init__(self) -> None:
        super().__post_init__()
        m, n = len(self.first_bias), len(self.second_bias)
        if len(self.first) != m or self.second.shape != (n, m) or self.last.shape != (n,):
            shapes = ", ".join(f"{name} {value.shape}" for name, value in self.tensors().items())
            raise ValueError(f"NetworkField takes first [m, H], second [n, m] and last [n], not {shapes}")

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        def velocity(state: Tensor, _: int) -> Tensor:
            one = _in(state, p["first"]) + p["first_bias"]
            two = _in(one.relu(), p["second"]) + p["second_bias"]
            back = _out(p["last"] * (two > 0), p["second"]) * (one > 0)
            return _unit(_out(back, p["first"]))

        return followed(h, p, flags, velocity)

    def work(self) -> Work:
        # A step: each matrix once forward and once back; a norm and the push.
        held = sum(value.size for value in self.tensors().values())
        return Work(self.steps * (4 * (self.first.size + self.second.size) + 4 * self.first.shape[1]), held, held)


@edit("concept-flow")
@dataclass(frozen=True, eq=False, kw_only=True)
class ConceptFlow(Field):
    """v = blocks(h, t, concept) - h, a trained network that reads what to steer to (arXiv 2605.05892).

    Each block adds e(t), attends from h to the concept's states, and passes a gated feed-forward part; both are
    normalised before and after, and weighed channel by channel before they are added. There is no attention to other
    tokens. `net` has the names of the published checkpoints (`flow_names`), norms as what they multiply with,
    and beside those `eps`, `softcap` (0: none) and `frequencies` `[d/2]`, the radians that a position turns a head by.
    `condition` `[m, H]` are the states of the concept's tokens, `SLOTS` at most.
    """

    shared: ClassVar[frozenset[str]] = frozenset({"net"})

    net: Weights
    condition: Array
    activation: Literal["silu", "gelu", "gelu-tanh"] = "silu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.condition) <= SLOTS:
            raise ValueError(f"ConceptFlow.condition {self.condition.shape}: 1 to {SLOTS} tokens are due")
        if self.time < 0:
            raise BenchError(f"a flow at layer {self.layer} runs one way: it has no coefficient below 0")

    @property
    def unit(self) -> Unit:
        return "trained"

    @cached_property
    def _read(self) -> dict[str, Array]:
        """What a row's concept and time come to, once for all of its tokens."""
        import torch

        with torch.no_grad():
            net = {name: torch.as_tensor(value).float() for name, value in self.net.items()}
            keys, values = concept_keys(net, torch.as_tensor(self.condition).float())
            times = time_embeddings(net, torch.tensor(self.time), self.steps)
        pad = [(0, 0), (0, SLOTS - len(self.condition)), (0, 0)]
        there = np.arange(SLOTS) < len(self.condition)
        found = {"keys": np.pad(keys.numpy(), pad), "values": np.pad(values.numpy(), pad), "times": times.numpy()}
        return found | {"there": there.astype(np.float32)}

    def operands(self) -> dict[str, Array]:
        found = super().operands()
        del found["condition"]  # its length is its own; its keys are padded
        return found | self._read

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        """Beside `p`'s other entries, `index` `[...]` says where each token stands in its text."""
        net = {name.removeprefix("net."): value for name, value in p.items() if name.startswith("net.")}
        blocks = flow_blocks(net)

        def velocity(state: Tensor, k: int) -> Tensor:
            x = state
            for b in range(blocks):
                x = _flowed(x + p["times"][..., k, :], b, net, p, flags)
            return x - state

        return followed(h, p, flags, velocity)

    def work(self) -> Work:
        # Keys, values and e(t) are made once a request. Products: queries and their way out, scores and values over the
        # concept's tokens, three of the feed-forward part. The rest: 21 H (e(t), four norms of 4 and two of them
        # weighed and added), 7 a (a norm of 4, a rotation of 3), 2 F (activation and product); 3 H a step.
        shapes = {name: value.shape for name, value in self.net.items()}
        tokens, hidden = self.condition.shape
        blocks = flow_blocks(shapes)
        heads, wide = shapes["blocks.0.cross_attn.q_proj.weight"][0], shapes["blocks.0.gate_proj.weight"][0]
        kept = shapes["blocks.0.cross_attn.k_proj.weight"][0]
        products = 4 * heads * hidden + 4 * heads * tokens + 6 * hidden * wide
        one = blocks * (products + 21 * hidden + 7 * heads + 2 * wide) + 3 * hidden
        read = blocks * (2 * heads * hidden + 3 * hidden * wide + 6 * hidden + 2 * tokens * kept + heads)
        # No chip holds a network from step to step, so that each step reads it again.
        return Work(self.steps * one, self.net.size + self.condition.size, self.steps * read)


SLOTS = 64
"""Tokens of a concept's text that a flow reads at most."""
FREQUENCIES = 128
"""Sines and cosines that a time is told in."""


def flow_names(block: int) -> tuple[str, ...]:
    """The names of the weights of one block of a flow, as published; those of the time's network are `TIME_NAMES`."""
    attention = [f"cross_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
    own = [*(f"pre_{part}_norm.weight" for part in ("cross", "mlp")), *attention, "post_cross_norm.weight"]
    own += ["cross_gate", *(f"{name}_proj.weight" for name in ("gate", "up", "down")), "post_mlp_norm.weight"]
    return tuple(f"blocks.{block}.{name}" for name in [*own, "mlp_gate"])


TIME_NAMES = tuple(f"time_embed.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias"))


def flow_blocks(net: Mapping[str, object]) -> int:
    """How many blocks a flow has."""
    return len({name.split(".")[1] for name in net if name.startswith("blocks.")})


def time_embeddings(net: Mapping[str, Tensor], time: Tensor, steps: int) -> Tensor:
    """e(t_k) `[..., steps, H]` of a flow of so long a `time` `[...]`."""
    import torch

    half = FREQUENCIES // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=time.device) / half)
    angle = (time[..., None] * torch.arange(steps, device=time.device) / steps)[..., None] * rates
    first, first_bias, last, last_bias = (net[name] for name in TIME_NAMES)
    inner = torch.cat([angle.sin(), angle.cos()], -1) @ first.mT + first_bias
    return torch.nn.functional.silu(inner) @ last.mT + last_bias


def concept_keys(net: Mapping[str, Tensor], condition: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values `[..., blocks, m, kv·d]` of a concept's states `[..., m, H]`, keys turned by their places."""
    import torch

    keys, values = [], []
    for b in range(flow_blocks(net)):
        at = f"blocks.{b}.cross_attn"
        key = _heads(_linear(condition, net, f"{at}.k_proj"), net)
        key = _rms(key, net[f"{at}.k_norm.weight"], net["eps"])
        place = torch.arange(condition.shape[-2], device=condition.device)
        keys.append(_turned(key, place[:, None], net["frequencies"]).flatten(-2))
        values.append(_linear(condition, net, f"{at}.v_proj"))
    return torch.stack(keys, -3), torch.stack(values, -3)


def _flowed(x: Tensor, block: int, net: Mapping[str, Tensor], p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
    """States `[..., H]` after one block of a flow."""
    from torch.nn import functional

    at, eps = f"blocks.{block}", net["eps"]
    query = _heads(_linear(_rms(x, net[f"{at}.pre_cross_norm.weight"], eps), net, f"{at}.cross_attn.q_proj"), net)
    query = _rms(query, net[f"{at}.cross_attn.q_norm.weight"], eps)
    query = _turned(query, p["index"][..., None], net["frequencies"])
    attended = _attended(query, p["keys"][..., block, :, :], p["values"][..., block, :, :], p["there"], net["softcap"])
    attended = _linear(attended, net, f"{at}.cross_attn.o_proj")
    x = x + net[f"{at}.cross_gate"] * _rms(attended, net[f"{at}.post_cross_norm.weight"], eps)
    fed = _rms(x, net[f"{at}.pre_mlp_norm.weight"], eps)
    opened = fed @ net[f"{at}.gate_proj.weight"].mT
    if "activation=silu" in flags:
        opened = functional.silu(opened)
    else:
        opened = functional.gelu(opened, approximate="tanh" if "activation=gelu-tanh" in flags else "none")
    fed = (opened * (fed @ net[f"{at}.up_proj.weight"].mT)) @ net[f"{at}.down_proj.weight"].mT
    return x + net[f"{at}.mlp_gate"] * _rms(fed, net[f"{at}.post_mlp_norm.weight"], eps)


def _linear(x: Tensor, net: Mapping[str, Tensor], name: str) -> Tensor:
    found = x @ net[f"{name}.weight"].mT
    return found + net[f"{name}.bias"] if f"{name}.bias" in net else found


def _heads(x: Tensor, net: Mapping[str, Tensor]) -> Tensor:
    """`[..., heads·d]` as `[..., heads, d]`."""
    return x.reshape(*x.shape[:-1], -1, 2 * len(net["frequencies"]))


def _rms(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    found: Tensor = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
    return found


def _turned(x: Tensor, place: Tensor, frequencies: Tensor) -> Tensor:
    """Heads `[..., d]` turned by their `place` `[...]`: the first half of each against its second (RoPE)."""
    import torch

    angle = place[..., None] * frequencies
    one, two = x.chunk(2, -1)
    return torch.cat([one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()], -1)


def _attended(query: Tensor, keys: Tensor, values: Tensor, there: Tensor, softcap: Tensor) -> Tensor:
    """What queries `[..., heads, d]` find in values `[..., m, kv·d]` by keys `[..., m, kv·d]`; neighbouring heads share
    a key. `there` `[..., m]` says which of the m are."""
    import torch

    size = query.shape[-1]
    keys, values = (part.reshape(*part.shape[:-1], -1, size) for part in (keys, values))
    query = query.reshape(*query.shape[:-2], keys.shape[-2], -1, size)
    every = query.ndim == 5 and keys.shape[1] == 1  # one concept for all tokens of a row: one product a row
    if every:
        scores = torch.einsum("btgrd,bmgd->btgrm", query, keys[:, 0])
    else:
        scores = torch.einsum("...grd,...mgd->...grm", query, keys)
    scores = scores * size**-0.5
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(there[..., None, None, :] == 0, -math.inf).softmax(-1)
    if every:
        found = torch.einsum("btgrm,bmgd->btgrd", scores, values[:, 0])
    else:
        found = torch.einsum("...grm,...mgd->...grd", scores, values)
    return found.flatten(-3)
