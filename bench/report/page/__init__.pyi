from .build import (
    INDEX as INDEX,
    copy as copy,
    write as write,
)
