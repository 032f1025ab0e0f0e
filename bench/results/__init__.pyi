from .audit import (
    check as check,
)
from .frames import (
    Results as Results,
    load as load,
)
from .runs import (
    ARCHIVE as ARCHIVE,
    KEYS as KEYS,
    TRIALS as TRIALS,
    Run as Run,
    aliases as aliases,
    code_key as code_key,
    find as find,
    finite as finite,
    lookup as lookup,
    matched as matched,
    means as means,
    metrics as metrics,
    place as place,
    published as published,
    read as read,
    refusals as refusals,
    same_group as same_group,
    trials as trials,
    write as write,
)
from .tables import (
    Row as Row,
    Table as Table,
    tables as tables,
)
