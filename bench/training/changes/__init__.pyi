from .base import (
    Change as Change,
    TrainingContext as TrainingContext,
)
