# What plugins, methods, tasks and notebooks import. One list: `__init__.py` reads it, type checkers too.
from . import results as results
from .core.composition import Wrapper as Wrapper
from .core.content import (
    Array as Array,
    Message as Message,
    Weights as Weights,
    digest as digest,
    plain as plain,
    stored as stored,
)
from .core.deltas import (
    Delta as Delta,
    DenseDelta as DenseDelta,
    LowRankDelta as LowRankDelta,
    RotationDelta as RotationDelta,
)
from .core.edits import Edit as Edit, Gate as Gate, Span as Span, Work as Work, edit as edit, similarity as similarity
from .core.embeds import Embeds as Embeds
from .core.errors import BenchError as BenchError, UsageError as UsageError, suggest as suggest
from .core.fields import (
    ConceptFlow as ConceptFlow,
    NetworkField as NetworkField,
    QuadraticField as QuadraticField,
)
from .core.interfaces import (
    Backend as Backend,
    Bound as Bound,
    Chooser as Chooser,
    Context as Context,
    Detector as Detector,
    Fitted as Fitted,
    Judge as Judge,
    LayerSpec as LayerSpec,
    Method as Method,
    OptionRater as OptionRater,
    Prompted as Prompted,
    Rate as Rate,
    Task as Task,
    check_layer as check_layer,
)
from .core.kinds import (
    Add as Add,
    Cache as Cache,
    Clamp as Clamp,
    Diagonal as Diagonal,
    LowRank as LowRank,
    Project as Project,
    Rotate as Rotate,
    Scaled as Scaled,
)
from .core.naming import build_method as build_method
from .core.protocol import Budget as Budget, Protocol as Protocol
from .core.registry import (
    backend as backend,
    combine as combine,
    judge as judge,
    method as method,
    task as task,
)
from .core.shapes import Amount as Amount, Count as Count, Positive as Positive, Share as Share, Size as Size
from .core.steering import Mix as Mix, Prompt as Prompt, Steering as Steering
from .core.values import (
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
from .interchange.files import (
    load as load,
    save as save,
)
from .run.notebook import (
    Fit as Fit,
    contrast as contrast,
    fit as fit,
    generate as generate,
    load_model as load_model,
    load_task as load_task,
    run as run,
)

__version__: str
