from . import results as results
from .core.interfaces import (
    Backend as Backend,
)
from .core.interfaces import (
    Bound as Bound,
)
from .core.interfaces import (
    Chooser as Chooser,
)
from .core.interfaces import (
    Context as Context,
)
from .core.interfaces import (
    Depth as Depth,
)
from .core.interfaces import (
    Detector as Detector,
)
from .core.interfaces import (
    Fitted as Fitted,
)
from .core.interfaces import (
    Judge as Judge,
)
from .core.interfaces import (
    Method as Method,
)
from .core.interfaces import (
    Prompted as Prompted,
)
from .core.interfaces import (
    Rate as Rate,
)
from .core.interfaces import (
    Task as Task,
)
from .core.interfaces import (
    check_depth as check_depth,
)
from .core.registry import (
    backend as backend,
)
from .core.registry import (
    judge as judge,
)
from .core.registry import (
    method as method,
)
from .core.registry import (
    task as task,
)
from .core.steering import (
    Add as Add,
)
from .core.steering import (
    Clamp as Clamp,
)
from .core.steering import (
    Delta as Delta,
)
from .core.steering import (
    DenseDelta as DenseDelta,
)
from .core.steering import (
    Edit as Edit,
)
from .core.steering import (
    Gate as Gate,
)
from .core.steering import (
    LowRank as LowRank,
)
from .core.steering import (
    LowRankDelta as LowRankDelta,
)
from .core.steering import (
    Project as Project,
)
from .core.steering import (
    Prompt as Prompt,
)
from .core.steering import (
    RotationDelta as RotationDelta,
)
from .core.steering import (
    Span as Span,
)
from .core.steering import (
    Steering as Steering,
)
from .core.values import (
    Activations as Activations,
)
from .core.values import (
    Array as Array,
)
from .core.values import (
    BenchError as BenchError,
)
from .core.values import (
    Budget as Budget,
)
from .core.values import (
    Choice as Choice,
)
from .core.values import (
    Completion as Completion,
)
from .core.values import (
    Concept as Concept,
)
from .core.values import (
    Example as Example,
)
from .core.values import (
    Item as Item,
)
from .core.values import (
    Message as Message,
)
from .core.values import (
    Pair as Pair,
)
from .core.values import (
    Protocol as Protocol,
)
from .core.values import (
    Request as Request,
)
from .core.values import (
    Sample as Sample,
)
from .core.values import (
    Sampling as Sampling,
)
from .core.values import (
    TargetScore as TargetScore,
)
from .core.values import (
    Train as Train,
)
from .core.values import (
    UsageError as UsageError,
)
from .core.values import (
    Verdict as Verdict,
)
from .core.values import (
    digest as digest,
)
from .core.values import (
    plain as plain,
)
from .core.values import (
    stored as stored,
)
from .core.values import (
    suggest as suggest,
)
from .interchange.files import (
    load as load,
)
from .interchange.files import (
    save as save,
)

__version__: str
