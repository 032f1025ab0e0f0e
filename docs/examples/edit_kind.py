"""A new kind of edit and a method that uses it: draw each state to the nearest of several centres."""

import dataclasses
from dataclasses import dataclass

from bench import Array, Context, Edit, Fitted, Method, Size, Steering, Train, Work, edit, method


@edit("attract")
@dataclass(frozen=True, eq=False, kw_only=True)
class Attract(Edit):
    """h ← h + strength · (centre - h), for whichever of `centers` `[k, H]` is nearest."""

    centers: Array
    strength: float = 1.0

    @property
    def unit(self):
        return "fraction"  # 1 is all the way, so it is tried at fractions and not at the lengths that vectors have

    def scaled(self, c):
        return dataclasses.replace(self, strength=self.strength * c)

    @staticmethod
    def change(h, p, flags):
        # Each of `p` has the leading dimensions of `h` `[..., H]`: a batch may hold many edits. It is added to h.
        apart = p["centers"] - h[..., None, :]
        nearest = apart.square().sum(-1).argmin(-1)[..., None, None].expand(*h.shape[:-1], 1, h.shape[-1])
        return p["strength"][..., None] * apart.gather(-2, nearest)[..., 0, :]

    def work(self):
        return Work(flops=3 * self.centers.size, elements=self.centers.size, moved=self.centers.size)


@method("centers", surface="activations", needs=["attract"], validated=False)
@dataclass(frozen=True)
class Centers(Method):
    """Draws states to the centres of what texts with the concept give."""

    layer: float = 0.5
    count: Size = 4

    def fit(self, ctx: Context, train: Train):
        from sklearn.cluster import KMeans

        layer = ctx.layer(self.layer)
        found = KMeans(self.count, random_state=0).fit(ctx.tokens(train.positives, layer))
        return [Fitted(Steering(edits=(Attract(layer=layer, centers=found.cluster_centers_),)))]
