"""The nouns and the contracts: what a steering, a request, a method, a task, a judge and a backend are, and how
they are named, found and kept. Everything else of `bench` may import this folder; it imports nothing of the rest.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
