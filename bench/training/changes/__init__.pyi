from .base import (
    Change as Change,
    Scene as Scene,
)
