from .build import (
    INDEX as INDEX,
)
from .build import (
    copy as copy,
)
from .build import (
    write as write,
)
