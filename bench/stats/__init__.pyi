from .agreement import (
    agree as agree,
)
from .intervals import (
    RESAMPLES as RESAMPLES,
    Difference as Difference,
    Estimate as Estimate,
    Form as Form,
    estimate as estimate,
    holm as holm,
    intervals as intervals,
    paired as paired,
    shared_ranks as shared_ranks,
    sign_flip as sign_flip,
)
