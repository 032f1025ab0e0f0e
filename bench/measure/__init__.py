"""What is done with a finished run: judged again, its cost and side effects, and how far a judge may be believed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
