from .files import (
    SUFFIX as SUFFIX,
)
from .files import (
    encode as encode,
)
from .files import (
    load as load,
)
from .files import (
    save as save,
)
