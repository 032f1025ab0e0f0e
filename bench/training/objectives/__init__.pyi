from .preferences import (
    Objective as Objective,
)
from .preferences import (
    objective as objective,
)
from .preferences import (
    objectives as objectives,
)
