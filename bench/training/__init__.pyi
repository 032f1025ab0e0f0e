from .objectives.all import objectives as objectives, refusal as refusal
from .objectives.base import Objective as Objective, objective as objective, settings as settings
from .objectives.representations import MID as MID
from .parametrisations import (
    SPREAD as SPREAD,
    WRITERS as WRITERS,
    Parametrisation as Parametrisation,
    forms as forms,
    parametrisation as parametrisation,
)
from .trainer import Recipe as Recipe, Trained as Trained, train as train
