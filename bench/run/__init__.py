"""From a plan to results: plan, fit, generate, judge, pick, test, record."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
