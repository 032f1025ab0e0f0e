"""A run in the formats in which others keep results: Every Eval Ever, Inspect, the Hugging Face hub.

Invariant: they are made from a run's record alone; texts that it does not give to others are in none of them, and the
same record gives the same bytes. A rating that is missing is left out, and is never a number.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
