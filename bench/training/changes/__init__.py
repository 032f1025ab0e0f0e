"""What training learns: the parameters of a change, and the hooks that apply them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
