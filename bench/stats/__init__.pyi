from .agreement import (
    agree as agree,
)
from .intervals import (
    RESAMPLES as RESAMPLES,
)
from .intervals import (
    Difference as Difference,
)
from .intervals import (
    Estimate as Estimate,
)
from .intervals import (
    Form as Form,
)
from .intervals import (
    estimate as estimate,
)
from .intervals import (
    holm as holm,
)
from .intervals import (
    intervals as intervals,
)
from .intervals import (
    paired as paired,
)
from .intervals import (
    shared_ranks as shared_ranks,
)
from .intervals import (
    sign_flip as sign_flip,
)
