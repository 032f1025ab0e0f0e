from .instrument import (
    Instrument as Instrument,
)
from .judging import (
    rate as rate,
)
