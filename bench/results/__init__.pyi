from .audit import (
    check as check,
)
from .runs import (
    KEYS as KEYS,
)
from .runs import (
    TRIALS as TRIALS,
)
from .runs import (
    VERSION as VERSION,
)
from .runs import (
    Run as Run,
)
from .runs import (
    aliases as aliases,
)
from .runs import (
    code_key as code_key,
)
from .runs import (
    find as find,
)
from .runs import (
    finite as finite,
)
from .runs import (
    load as load,
)
from .runs import (
    lookup as lookup,
)
from .runs import (
    matched as matched,
)
from .runs import (
    means as means,
)
from .runs import (
    metrics as metrics,
)
from .runs import (
    place as place,
)
from .runs import (
    published as published,
)
from .runs import (
    read as read,
)
from .runs import (
    refusals as refusals,
)
from .runs import (
    same_group as same_group,
)
from .runs import (
    trials as trials,
)
from .runs import (
    write as write,
)
from .tables import (
    Row as Row,
)
from .tables import (
    Table as Table,
)
from .tables import (
    tables as tables,
)
