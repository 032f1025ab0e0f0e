from .files import (
    SUFFIX as SUFFIX,
    encode as encode,
    load as load,
    save as save,
)
from .places import (
    located as located,
    of_concept as of_concept,
    steering_files as steering_files,
)
