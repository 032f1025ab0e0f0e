from .base import (
    Change as Change,
)
from .base import (
    Scene as Scene,
)
