from .hf.backend import (
    HFBackend as HFBackend,
)
from .models import (
    DEFAULT as DEFAULT,
    Model as Model,
    resolve as resolve,
)
