"""Who answers: engines that apply a `Steering` to a model.

`hf` runs transformers with hooks, `vllm` steers inside continuous batching, `hosted` asks an OpenAI-compatible server.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
