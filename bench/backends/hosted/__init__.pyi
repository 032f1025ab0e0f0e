from .backend import (
    OpenAIBackend as OpenAIBackend,
)
