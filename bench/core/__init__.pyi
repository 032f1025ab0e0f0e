from .definitions import (
    code_digest as code_digest,
)
from .interfaces import (
    Backend as Backend,
)
from .interfaces import (
    Bound as Bound,
)
from .interfaces import (
    Chooser as Chooser,
)
from .interfaces import (
    Context as Context,
)
from .interfaces import (
    Depth as Depth,
)
from .interfaces import (
    Detector as Detector,
)
from .interfaces import (
    Fitted as Fitted,
)
from .interfaces import (
    Judge as Judge,
)
from .interfaces import (
    Method as Method,
)
from .interfaces import (
    Prompted as Prompted,
)
from .interfaces import (
    Rate as Rate,
)
from .interfaces import (
    ReadSite as ReadSite,
)
from .interfaces import (
    Task as Task,
)
from .interfaces import (
    check_depth as check_depth,
)
from .registry import (
    backend as backend,
)
from .registry import (
    build as build,
)
from .registry import (
    get as get,
)
from .registry import (
    judge as judge,
)
from .registry import (
    load_plugin as load_plugin,
)
from .registry import (
    method as method,
)
from .registry import (
    table as table,
)
from .registry import (
    task as task,
)
from .steering import (
    Add as Add,
)
from .steering import (
    Clamp as Clamp,
)
from .steering import (
    Delta as Delta,
)
from .steering import (
    DenseDelta as DenseDelta,
)
from .steering import (
    Edit as Edit,
)
from .steering import (
    Gate as Gate,
)
from .steering import (
    LowRank as LowRank,
)
from .steering import (
    LowRankDelta as LowRankDelta,
)
from .steering import (
    Project as Project,
)
from .steering import (
    Prompt as Prompt,
)
from .steering import (
    RotationDelta as RotationDelta,
)
from .steering import (
    Site as Site,
)
from .steering import (
    Span as Span,
)
from .steering import (
    Steering as Steering,
)
from .store import (
    Artefacts as Artefacts,
)
from .store import (
    Rows as Rows,
)
from .store import (
    load_value as load_value,
)
from .store import (
    pack as pack,
)
from .store import (
    save_value as save_value,
)
from .store import (
    write_json as write_json,
)
from .store import (
    write_whole as write_whole,
)
from .values import (
    Activations as Activations,
)
from .values import (
    Array as Array,
)
from .values import (
    BenchError as BenchError,
)
from .values import (
    Budget as Budget,
)
from .values import (
    Choice as Choice,
)
from .values import (
    Completion as Completion,
)
from .values import (
    Concept as Concept,
)
from .values import (
    Example as Example,
)
from .values import (
    Halted as Halted,
)
from .values import (
    Item as Item,
)
from .values import (
    Message as Message,
)
from .values import (
    Pair as Pair,
)
from .values import (
    Protocol as Protocol,
)
from .values import (
    Request as Request,
)
from .values import (
    RunSpec as RunSpec,
)
from .values import (
    Sample as Sample,
)
from .values import (
    Sampling as Sampling,
)
from .values import (
    TargetScore as TargetScore,
)
from .values import (
    Train as Train,
)
from .values import (
    UsageError as UsageError,
)
from .values import (
    Verdict as Verdict,
)
from .values import (
    digest as digest,
)
from .values import (
    plain as plain,
)
from .values import (
    stored as stored,
)
from .values import (
    suggest as suggest,
)
