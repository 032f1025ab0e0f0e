from .objectives.crossing import (
    refusal as refusal,
)
from .objectives.preferences import (
    Objective as Objective,
)
from .objectives.preferences import (
    objective as objective,
)
from .objectives.preferences import (
    objectives as objectives,
)
from .objectives.preferences import (
    settings as settings,
)
from .objectives.representations import (
    MID as MID,
)
from .parametrisations import (
    SPREAD as SPREAD,
)
from .parametrisations import (
    WRITERS as WRITERS,
)
from .parametrisations import (
    Parametrisation as Parametrisation,
)
from .parametrisations import (
    forms as forms,
)
from .parametrisations import (
    parametrisation as parametrisation,
)
from .trainer import (
    Recipe as Recipe,
)
from .trainer import (
    Trained as Trained,
)
from .trainer import (
    train as train,
)
