from .hf.backend import (
    HFBackend as HFBackend,
)
from .models import (
    DEFAULT as DEFAULT,
)
from .models import (
    Model as Model,
)
from .models import (
    resolve as resolve,
)
