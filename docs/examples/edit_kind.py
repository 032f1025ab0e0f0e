"""A new kind of edit and a method that uses it: turn states in a plane, and leave their length as it is."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from bench import Array, Context, Edit, Fitted, Method, Steering, Train, Work, edit, method


@edit("rotate")
@dataclass(frozen=True, eq=False, kw_only=True)
class Rotate(Edit):
    """h turned by `angle` radians in the plane of `basis` `[2, H]`, from its first row to its second."""

    basis: Array
    angle: float = 1.0

    def scaled(self, c):
        return dataclasses.replace(self, angle=self.angle * c)

    @staticmethod
    def change(h, p, flags):
        # One row of `p` for each row of `h` `[..., H]`: a batch may hold many edits. What is returned is added to h.
        first, second = p["basis"][..., 0, :], p["basis"][..., 1, :]
        x, y = ((h * axis).sum(-1, keepdim=True) for axis in (first, second))
        cos, sin = p["angle"][..., None].cos() - 1, p["angle"][..., None].sin()
        return (cos * x - sin * y) * first + (sin * x + cos * y) * second

    def work(self):
        return Work(flops=8 * self.basis.shape[-1], elements=self.basis.size, moved=self.basis.size)


@method("rotation", family="direction", needs=["rotate"], validated=False)
@dataclass(frozen=True)
class Rotation(Method):
    """Turns states from where texts without the concept lie to where those with it do."""

    layer: float = 0.5

    def fit(self, ctx: Context, train: Train):
        layer = ctx.layer(self.layer)
        away, to = (ctx.tokens(texts, layer).mean(0) for texts in (train.negatives, train.positives))
        first = away / np.linalg.norm(away)
        second = to - (to @ first) * first
        basis = np.stack([first, second / np.linalg.norm(second)])
        return [Fitted(Steering(edits=(Rotate(layer=layer, basis=basis),)))]
