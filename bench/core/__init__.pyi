from .content import (
    Array as Array,
    Message as Message,
    Weights as Weights,
    digest as digest,
    plain as plain,
    stored as stored,
)
from .definitions import (
    code_digest as code_digest,
)
from .deltas import (
    Delta as Delta,
    DenseDelta as DenseDelta,
    LowRankDelta as LowRankDelta,
    RotationDelta as RotationDelta,
)
from .edits import Edit as Edit, Gate as Gate, Site as Site, Span as Span
from .embeds import Embeds as Embeds
from .errors import BenchError as BenchError, StopRun as StopRun, UsageError as UsageError, suggest as suggest
from .fields import (
    ConceptFlow as ConceptFlow,
    NetworkField as NetworkField,
    QuadraticField as QuadraticField,
)
from .interfaces import (
    Backend as Backend,
    Bound as Bound,
    Chooser as Chooser,
    Context as Context,
    Detector as Detector,
    Fitted as Fitted,
    Judge as Judge,
    LayerSpec as LayerSpec,
    Method as Method,
    Prompted as Prompted,
    Rate as Rate,
    ReadSite as ReadSite,
    Task as Task,
    check_layer as check_layer,
)
from .kinds import (
    Add as Add,
    Cache as Cache,
    Clamp as Clamp,
    Diagonal as Diagonal,
    LowRank as LowRank,
    Project as Project,
    Rotate as Rotate,
    Scaled as Scaled,
)
from .protocol import Budget as Budget, Protocol as Protocol, RunSpec as RunSpec
from .registry import (
    backend as backend,
    build as build,
    get as get,
    judge as judge,
    load_plugin as load_plugin,
    method as method,
    table as table,
    task as task,
)
from .rows import Rows as Rows
from .steering import Mix as Mix, Prompt as Prompt, Steering as Steering
from .store import (
    Artefacts as Artefacts,
    load_value as load_value,
    pack as pack,
    save_value as save_value,
    write_json as write_json,
    write_whole as write_whole,
)
from .values import (
    Activations as Activations,
    Choice as Choice,
    Completion as Completion,
    Concept as Concept,
    Example as Example,
    Item as Item,
    Pair as Pair,
    Request as Request,
    Sample as Sample,
    Sampling as Sampling,
    TargetScore as TargetScore,
    Train as Train,
    Verdict as Verdict,
)
