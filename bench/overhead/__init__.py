"""What steering costs: the printed formulas, the exact ones, and when fitting pays.

`published` holds a blog post's formulas and numbers, `exact` counts from a model's configuration and
`edits` from a `Steering`, `breakeven` weighs fitting against prompting. (`bench.measure.overhead` runs both side by
side.)
Invariant: an overhead is relative to the same request without the steering, and says at which context.
"""
