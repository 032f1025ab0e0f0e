from .export import (
    export as export,
)
from .plan import (
    Options as Options,
    Plan as Plan,
    make as make,
)
from .session import (
    execute as execute,
)
