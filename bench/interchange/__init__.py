"""Steerings as files: this program's own, and those of llama.cpp, lm-eval and peft."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
