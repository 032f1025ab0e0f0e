from .build import (
    build as build,
)
from .build import (
    publish as publish,
)
from .build import (
    stem as stem,
)
