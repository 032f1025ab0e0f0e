from .files import (
    SUFFIX as SUFFIX,
    encode as encode,
    load as load,
    save as save,
)
