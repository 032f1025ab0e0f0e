"""How a change of a model is learnt: one trainer over two orthogonal registries, parametrisations and objectives.

Invariant: a parametrisation never knows the objective that trains it; what a pair cannot do is in one table
(`refusal`) and is said before a model is loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
