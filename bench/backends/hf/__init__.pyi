from .backend import (
    HFBackend as HFBackend,
)
