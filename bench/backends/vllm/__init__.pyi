from .backend import (
    VLLMBackend as VLLMBackend,
)
