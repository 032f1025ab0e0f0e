from .capability import (
    Capability as Capability,
)
