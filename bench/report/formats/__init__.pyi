from .every_eval import (
    every_eval_files as every_eval_files,
)
from .hub_card import (
    hub_files as hub_files,
)
from .inspect_log import (
    inspect_files as inspect_files,
)
