from .all import objectives as objectives, refusal as refusal
from .base import Objective as Objective, objective as objective
