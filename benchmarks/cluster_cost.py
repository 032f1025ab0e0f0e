"""What AxBench's Concept500 takes on data-centre GPUs, method by method: a prediction, for no GPU was at hand.

Tokens are what a plan counts (`bench.run.spending`, preset paper in AxBench's mode, one concept times 500); rates come
from a formula whose parameters stand below, each with its evidence. Prints the table of docs/cluster.md and writes
`cluster_cost.json`. `python benchmarks/cluster_cost.py`.

    step(B)  = L·h + (2N + B·context·kv) / bandwidth          seconds for one token of each of B rows
    writing  = tokens written · step(B) / B
    reading  = tokens read · 2N / (flops · use)
    training = tokens trained on · 4N / (flops · use) + steps · 3·L·h     the base is frozen: no gradient by its weights

N: parameters, L: blocks, kv: bytes of keys and values a token, h: what a block costs a step whatever it computes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.core.interfaces import Method
from bench.core.store import write_json
from bench.results import provenance
from bench.run.plan import Options, Plan, make
from bench.run.spending import spend

CONCEPTS = 500


@dataclass(frozen=True)
class Model:
    """By its public configuration."""

    parameters: float
    layers: int
    kv_heads: int
    head_dim: int

    @property
    def kv(self) -> int:
        """Bytes of keys and values of a token, in bf16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Device:
    """By its data sheet: dense bf16 FLOP/s, bytes a second."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Engine:
    """Rows of a batch, and seconds that a block costs a step."""

    rows: int
    overhead: float


MODELS = {"2B": Model(2.61e9, 26, 4, 256), "9B": Model(9.24e9, 42, 8, 256)}
"""google/gemma-2-2b-it and google/gemma-2-9b-it."""
DEVICES = {"A100": Device(312e12, 2.04e12), "H100": Device(989e12, 3.35e12)}
PUBLISHED = Model(1.54e9, 28, 2, 128), Device(252e12, 1.79e12), 200
"""What EasySteer's table was measured on: DeepSeek-R1-Distill-Qwen-1.5B, an RTX PRO 6000, about so long a context."""
RATES = {"hf": (64, 921), "vllm": (256, 9375)}
"""(rows, steered tokens a second) there: transformers with repeng's hook, and vLLM without graphs. `hf` itself was not
measured on a GPU; it batches as transformers does."""
USE = 0.35
"""Share of the FLOP/s that long passes reach. An assumption: 0.3 to 0.5 is usual for models of this size."""
CONTEXT, PROMPT = 170, 60
"""Tokens that a row has on average while it is written, and when it begins: AxBench's instructions with a template."""
TEXT, BOUND = 120, 512
"""Tokens of a training text of AxBench on average, and what a plan counts for one."""
STEP = 2000
"""Tokens of a training step, about: a batch of 18 texts."""
READ = 144
"""Texts that a direction is read from, a concept."""


def step(model: Model, device: Device, rows: int, overhead: float, context: int) -> float:
    return model.layers * overhead + (2 * model.parameters + rows * context * model.kv) / device.bandwidth


def engine(name: str) -> Engine:
    """The engine, its overhead being what the published rate leaves over."""
    model, device, context = PUBLISHED
    rows, rate = RATES[name]
    return Engine(rows, (rows / rate - step(model, device, rows, 0.0, context)) / model.layers)


def hours(made: Method, plan: Plan, model: Model, device: Device, runs: Engine) -> float:
    """GPU-hours of a method over all concepts, without the judge."""
    cost = spend(made, plan.protocol, plan.task)
    plain = engine("hf")  # fits need the module, and so this engine
    texts = cost.train_tokens / BOUND
    written = cost.tokens * step(model, device, runs.rows, runs.overhead, CONTEXT) / runs.rows
    reads = cost.generations * PROMPT + (
        READ * TEXT if made.surface == "activations" and "train" not in made.needs else 0
    )
    read = reads * 2 * model.parameters / (device.flops * USE)
    learnt = texts * TEXT * (4 * model.parameters / (device.flops * USE) + 3 * model.layers * plain.overhead / STEP)
    return CONCEPTS * (written + read + learnt) / 3600


def plans() -> Plan:
    """One concept of the fake engine's: what is asked of a model does not depend on it."""
    names = ("prompt*", "activations", "weights", "none")
    return make(Options(names, backend="fake", judge="likelihood", preset="paper", compat="axbench", limit=1))


def found(plan: Plan) -> list[dict[str, Any]]:
    rows = []
    for made in plan.methods:
        cost = spend(made, plan.protocol, plan.task)
        row: dict[str, Any] = {"method": made.name, "answers": CONCEPTS * cost.generations}
        row |= {"written": CONCEPTS * cost.tokens, "trained": CONCEPTS * cost.train_tokens * TEXT // BOUND}
        for name, model in MODELS.items():
            for card, device in DEVICES.items():
                runs = engine("vllm" if "train" not in made.needs or made.name in VECTORS else "hf")
                row[f"{name} {card}"] = round(hours(made, plan, model, device, runs), 2)
        rows.append(row)
    return rows


VECTORS = frozenset({"reft-r1", "ssv", "reps", "bipo"})
"""Trained methods whose answers vLLM writes: they end in vectors."""


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as Markdown, dearest last."""
    cells = [f"{name} {card}" for name in MODELS for card in DEVICES]
    lines = [f"| method | answers | tokens written | trained on | {' | '.join(cells)} |", "|---|" + "---|" * 7]
    whole = {"method": f"all {len(rows)}"} | {key: sum(row[key] for row in rows) for key in rows[0] if key != "method"}
    for row in [*sorted(rows, key=lambda row: (row[cells[0]], row["method"])), whole]:
        counts = f"{row['answers']:,} | {row['written'] / 1e6:.1f} M | {row['trained'] / 1e6:,.0f} M"
        lines.append(f"| `{row['method']}` | {counts} | {' | '.join(f'{row[cell]:,.1f}' for cell in cells)} |")
    return lines


def main() -> None:
    rows = found(plans())
    parameters = {
        "models": {name: asdict(one) for name, one in MODELS.items()},
        "devices": {name: asdict(one) for name, one in DEVICES.items()},
        "engines": {name: asdict(engine(name)) for name in RATES},
        "use": USE,
        "context": CONTEXT,
        "prompt": PROMPT,
        "text": TEXT,
        "step": STEP,
        "read": READ,
    }
    kept = {"methods": rows, "parameters": parameters, "provenance": provenance.provenance()}
    write_json(Path(__file__).with_suffix(".json"), kept)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
