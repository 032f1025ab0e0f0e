from .api import (
    Backend as Backend,
)
from .api import (
    Bound as Bound,
)
from .api import (
    Chooser as Chooser,
)
from .api import (
    Context as Context,
)
from .api import (
    Depth as Depth,
)
from .api import (
    Detector as Detector,
)
from .api import (
    Fitted as Fitted,
)
from .api import (
    Judge as Judge,
)
from .api import (
    Method as Method,
)
from .api import (
    Prompted as Prompted,
)
from .api import (
    Rate as Rate,
)
from .api import (
    Task as Task,
)
from .api import (
    check_depth as check_depth,
)
from .interchange import (
    load as load,
)
from .interchange import (
    save as save,
)
from .registry import (
    backend as backend,
)
from .registry import (
    judge as judge,
)
from .registry import (
    method as method,
)
from .registry import (
    task as task,
)
from .schema import (
    Activations as Activations,
)
from .schema import (
    Array as Array,
)
from .schema import (
    BenchError as BenchError,
)
from .schema import (
    Budget as Budget,
)
from .schema import (
    Choice as Choice,
)
from .schema import (
    Completion as Completion,
)
from .schema import (
    Concept as Concept,
)
from .schema import (
    Example as Example,
)
from .schema import (
    Item as Item,
)
from .schema import (
    Message as Message,
)
from .schema import (
    Pair as Pair,
)
from .schema import (
    Protocol as Protocol,
)
from .schema import (
    Request as Request,
)
from .schema import (
    Sample as Sample,
)
from .schema import (
    Sampling as Sampling,
)
from .schema import (
    TargetScore as TargetScore,
)
from .schema import (
    Train as Train,
)
from .schema import (
    UsageError as UsageError,
)
from .schema import (
    Verdict as Verdict,
)
from .schema import (
    digest as digest,
)
from .schema import (
    plain as plain,
)
from .schema import (
    stored as stored,
)
from .schema import (
    suggest as suggest,
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
    Span as Span,
)
from .steering import (
    Steering as Steering,
)

__version__: str
