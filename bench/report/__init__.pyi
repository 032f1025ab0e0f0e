from .build import (
    build as build,
    publish as publish,
    stem as stem,
)
