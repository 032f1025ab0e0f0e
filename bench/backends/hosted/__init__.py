"""The `openai` engine: an OpenAI-compatible server, asked in parallel or by its batch interface."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
