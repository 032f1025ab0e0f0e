from .export import (
    export as export,
)
from .plan import (
    Options as Options,
)
from .plan import (
    Plan as Plan,
)
from .plan import (
    make as make,
)
from .session import (
    execute as execute,
)
