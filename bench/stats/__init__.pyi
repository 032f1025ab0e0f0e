from .agreement import (
    agree as agree,
)
from .intervals import (
    RESAMPLES as RESAMPLES,
    Estimate as Estimate,
    Form as Form,
    estimate as estimate,
    intervals as intervals,
)
from .significance import (
    LEVEL as LEVEL,
    Difference as Difference,
    equivalent as equivalent,
    holm as holm,
    paired as paired,
    rank_intervals as rank_intervals,
    sign_flip as sign_flip,
    significant as significant,
)
