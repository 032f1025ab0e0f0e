from .build import (
    INDEX as INDEX,
    copy as copy,
    stop as stop,
    write as write,
)
