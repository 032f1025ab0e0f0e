"""A run over Ray, held to what a run in one process gives: on a cluster of two nodes of this machine, whose workers and
nodes are killed in the midst of the work."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from stub_server import Reply, Stub, answer

from bench.backends import tiny
from bench.backends.fake.backend import FakeBackend
from bench.backends.models import Model
from bench.core.errors import BenchError, StopRun, UsageError
from bench.core.registry import PLUGIN as PLUGIN_NAME, load_plugin
from bench.core.values import Request
from bench.run import cluster
from bench.run.cluster import Pool, pooled
from bench.run.jobs import Job
from bench.run.plan import Options, from_file, make
from bench.run.session import Progress, execute, silent
from benchmarks import cluster_cost

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

LACKING = importlib.util.find_spec("ray") is None
with_ray = pytest.mark.skipif(LACKING, reason="Ray is not installed: pip install 'steer-or-prompt[ray]'")
slow = pytest.mark.slow
CONCEPTS = 4
PLUGIN = """
from __future__ import annotations
import os, time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from bench import Add, Context, Fitted, Method, Steering, Train, method
from bench.backends.fake.backend import FakeBackend

HERE = Path(__file__).parent
DRIVER = int((HERE / "driver").read_text())


def note(what):
    with (HERE / "calls").open("a") as file:
        file.write(f"{os.getpid()} {what}\\n")


def slowly(self, requests):
    for i, request in enumerate(requests):
        if request.prompt == "deadly":
            os._exit(1)
        note(f"answer {request.prompt} {request.steering and request.steering.digest} {request.seed}")
        time.sleep(0.01)
        for _, completion in answers(self, [request]):
            yield i, completion


answers = FakeBackend.generate
if os.getpid() != DRIVER:
    FakeBackend.generate = slowly


@method("mine", surface="activations", needs=["add"])
@dataclass(frozen=True)
class Mine(Method):
    '''A direction of the mean.'''
    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        note(f"fit {train.concept.id}")
        time.sleep(0.1)
        value = ctx.tokens(train.positives, 1).mean(0).astype(np.float32)
        return [Fitted(Steering(edits=(Add(layer=1, value=value),)))]


@method("odd", surface="activations", needs=["add"])
@dataclass(frozen=True)
class Odd(Method):
    '''Fails.'''
    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        raise ZeroDivisionError("no direction")


@method("unsent", surface="activations", needs=["add"])
@dataclass(frozen=True)
class Unsent(Method):
    '''Cannot be sent anywhere.'''
    def __reduce__(self):
        raise TypeError("not to be sent")
    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return []
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Two nodes of one core each, the second of which may go."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    one = {"num_cpus": 1, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args=one | {"_system_config": checks, "include_dashboard": False})
    made.add_node(**one)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


class Place:
    """A folder with a plugin, what its workers did, and runs with a cache of their own."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        (root / "driver").write_text(str(os.getpid()))
        (root / "plugin.py").write_text(PLUGIN)
        self.plugin = load_plugin(root / "plugin.py")

    def run(self, name: str, progress: Progress = silent, **options: Any) -> list[Job]:
        self.monkeypatch.setenv("BENCH_CACHE", str(self.root / name))
        plan = make(Options(**{"backend": "fake", "judge": "likelihood", "limit": CONCEPTS} | options))
        return execute(plan, self.root / name / "results", progress)

    def calls(self) -> list[tuple[int, str]]:
        """(process, what it did), in order."""
        lines = (self.root / "calls").read_text().splitlines() if (self.root / "calls").is_file() else []
        return [(int(pid), what) for pid, what in (line.split(" ", 1) for line in lines)]

    def outcome(self, name: str) -> dict[str, Any]:
        """What decides every number of a run; times and machines left out."""
        found = {}
        for path in (self.root / name / "results").rglob("run.json"):
            data = json.loads(path.read_text("utf-8"))
            for concept in data["concepts"].values():
                concept.pop("fit_seconds")
            for own in ("timings", "provenance", "refused", "executor"):
                data.pop(own, None)
            found[data["spec"]["method"]] = data
        return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in [name for name in sys.modules if name.startswith(PLUGIN_NAME)]:  # of tests before
        monkeypatch.delitem(sys.modules, name)
    made = Place(tmp_path, monkeypatch)
    yield made
    del sys.modules[made.plugin.__name__]  # the next test's workers shall not load it


@pytest.fixture
def pool(nodes: Cluster, place: Place) -> Iterator[Pool]:
    made = pooled(FakeBackend(), ("fake", Model("fake", Path(), "fake", "fake"), "float32"), "", 2, print)
    yield made
    made.close()


def at(stage: str, count: int, act: Callable[[], None]) -> Progress:
    """Progress that acts when so many steps of a stage are done."""

    @contextmanager
    def progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            before, done = done, done + steps
            if name == stage and before < count <= done:
                act()

        yield advance

    return progress


@with_ray
@slow
def test_a_run_over_workers_gives_what_a_run_in_one_process_gives(nodes: Cluster, place: Place, tmp_path: Path) -> None:
    model = tiny.build(tmp_path / "model")
    params = {"protocol.sampling.max_new_tokens": 6, "protocol.budget.sequences": 8, "protocol.budget.tokens": 400}
    params |= {"likelihood.texts": 3, "likelihood.words": 8}
    options = {"backend": "hf", "model": str(model.path), "dtype": "float32", "params": params, "limit": 2}
    methods = ("none", "diffmean", "lora", "prompt", "sae", "repe-contrast", "persona")
    here = place.run("here", methods=methods, **options)
    there = place.run("there", methods=methods, executor="ray", workers=2, **options)
    assert [(job.status, job.reason) for job in there] == [(job.status, job.reason) for job in here]
    assert {job.status for job in here[:-1]} == {"complete"}  # of answers without a meaning persona has no pairs
    one, other = (dict(leaves(place.outcome(name))) for name in ("there", "here"))
    assert one.keys() == other.keys()
    numbers = {where for where, value in other.items() if isinstance(value, float)}
    assert {where: one[where] for where in one.keys() - numbers} == {w: other[w] for w in one.keys() - numbers}
    close = (
        0 if platform.machine() in ("x86_64", "AMD64") else 1e-5
    )  # elsewhere a product has other bits in other batches
    assert {w: one[w] for w in numbers} == pytest.approx({w: other[w] for w in numbers}, rel=0, abs=close)
    kept = json.loads(next((place.root / "there" / "results").rglob("run.json")).read_text())
    assert sum(kind["count"] for kind in kept["executor"]["workers"]) == 2


def leaves(tree: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of all that is no list and no dict."""
    if not isinstance(tree, dict | list):
        yield above, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from leaves(value, f"{above}/{key}")


@with_ray
@slow
def test_a_killed_worker_loses_nothing_and_makes_nothing_twice(nodes: Cluster, place: Place) -> None:
    """In the fits, beside a method that fails alone, and in the answers."""
    killed: list[int] = []

    def kill() -> None:
        killed.append(next(pid for pid, _ in reversed(place.calls()) if pid != os.getpid()))
        os.kill(killed[-1], signal.SIGKILL)

    methods = ("none", "mine", "odd", "prompt")
    undisturbed = place.run("here", methods=methods)
    before = len(place.calls())
    first = 2 * CONCEPTS + 1  # the controls, which do not tell of their fits, are fitted before
    fits = place.run("there", at("fit", first, kill), methods=methods, executor="ray", workers=2)
    assert [(job.status, job.reason) for job in fits] == [(job.status, job.reason) for job in undisturbed]
    assert fits[2].reason.startswith("fit: ZeroDivisionError: no direction (plugin.py:")
    assert place.outcome("there") == place.outcome("here")
    fitted = Counter(what for _, what in place.calls()[before:] if what.startswith("fit"))
    assert len(fitted) == CONCEPTS
    assert fitted.total() <= CONCEPTS + 2  # at most what the dead worker had in hand
    once(place, killed, before)

    begun, before = len(killed), len(place.calls())
    methods = (*methods, "unsent")
    again = place.run("again", at("generate (select)", 20, kill), methods=methods, executor="ray", workers=2)
    assert len(killed) == begun + 1
    assert place.outcome("again") == place.outcome("here")
    assert [job.status for job in again] == ["complete", "complete", "failed", "complete", "failed"]
    assert re.match(r"fit: TypeError: .*Unsent\(\)", again[4].reason)
    once(place, killed, before)


def once(place: Place, killed: list[int], begin: int) -> None:
    """Every answer was made once, but those that a killed worker had not handed over: one unit of them, at most."""
    answers = [(pid, what) for pid, what in place.calls()[begin:] if what.startswith("answer")]
    made = Counter(what for _, what in answers)
    assert len(made) > 50
    twice = {what for what, n in made.items() if n > 1}
    assert max(made.values()) <= 2
    assert len(twice) <= cluster.LEAST
    assert all(any(pid in killed for pid, one in answers if one == what) for what in twice)


@with_ray
@slow
def test_a_lost_node_loses_nothing_and_makes_nothing_twice(nodes: Cluster, place: Place) -> None:
    import ray

    second = next(node for node in nodes.worker_nodes)
    gone: list[int] = []

    def remove() -> None:
        busy = {pid for pid, _ in place.calls()}
        nodes.remove_node(second, allow_graceful=False)
        while not gone:  # a worker ends when it misses its node
            gone.extend(pid for pid in busy if not alive(pid))

    place.run("here", methods=("none", "mine", "prompt"))
    before = len(place.calls())
    try:
        jobs = place.run("there", at("generate (select)", 20, remove), methods=("none", "mine", "prompt"),
                         executor="ray", workers=2)  # fmt: skip
        assert [job.status for job in jobs] == ["complete"] * 3
        assert int(ray.cluster_resources()["CPU"]) == 1
        assert len(gone) == 1
        assert place.outcome("there") == place.outcome("here")
        once(place, gone, before)
    finally:
        nodes.add_node(num_cpus=1, object_store_memory=100 << 20)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@with_ray
@slow
def test_reads_are_those_of_one_engine_and_what_kills_every_worker_ends_the_run(pool: Pool, place: Place) -> None:
    here = FakeBackend()
    texts = [f"text {i}" for i in range(40)]
    for there, own in zip(pool.activations(texts, [1, 2], 5), here.activations(texts, [1, 2], 5), strict=True):
        assert there.response == own.response
        assert {k: v.tolist() for k, v in there.values.items()} == {k: v.tolist() for k, v in own.values.items()}
    readout = np.ones(8, np.float32)
    for one, other in zip(pool.gradients(texts, 1, readout), here.gradients(texts, 1, readout), strict=True):
        assert np.array_equal(one, other)
    assert (pool.layers, pool.width, pool.count("a b"), pool.fingerprint()) == (4, 8, 2, here.fingerprint())
    assert np.array_equal(pool.output_projection(1), here.output_projection(1))
    with pytest.raises(BenchError, match="backend fake does not give token ids"):
        pool.encode("a")
    assert len(list(pool.generate([Request(text) for text in texts]))) == len(texts)
    for pid in {pid for pid, _ in place.calls()}:  # while nobody asks them anything
        os.kill(pid, signal.SIGKILL)
    assert {i: one.text for i, one in pool.generate([Request("a"), Request("b")])} == {
        i: one.text for i, one in here.generate([Request("a"), Request("b")])
    }
    requests = [Request(text) for text in (*texts, "deadly")]
    found: list[int] = []
    with pytest.raises(StopRun, match="3 workers ended over the same work"):
        found.extend(i for i, _ in pool.generate(requests))
    assert len(found) > 20  # the rest came through


@with_ray
@slow
def test_a_worker_with_another_engine_is_refused(nodes: Cluster, place: Place, tmp_path: Path) -> None:
    model = tiny.build(tmp_path / "model")
    made = pooled(tiny.engine(tmp_path / "other", seed=1), ("hf", model, "float32"), "", 1, print)
    try:
        with pytest.raises(StopRun, match="has another model, or other versions"):
            list(made.generate([Request("a")]))
    finally:
        made.close()


@with_ray
def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    engine = ("fake", Model("fake", Path(), "fake", "fake"), "float32")
    with pytest.raises(StopRun, match=r"cannot join the Ray cluster at 127\.0\.0\.1:1: ConnectionRefusedError"):
        list(pooled(FakeBackend(), engine, "127.0.0.1:1", 1, print).generate([Request("a")]))


@with_ray
@slow
def test_the_limit_of_what_a_judge_may_cost_holds_over_all_workers(nodes: Cluster, place: Place, stub: Stub) -> None:
    def behave(number: int, prompt: str) -> Reply:
        return answer("Rating: [[1]]", usage={"prompt_tokens": len(prompt.encode()), "completion_tokens": 256})

    stub.behave = behave
    options = {
        "methods": ("none", "mine"),
        "judge": "openai:m",
        "params": {"openai.price": "1,1", "openai.workers": "3"},
        "executor": "ray",
        "workers": 2,
    }
    with pytest.raises(StopRun, match="max-cost"):
        place.run("there", max_cost=0.012, **options)
    billed = sum((len(prompt.encode()) + 256) / 1e6 for prompt in stub.prompts())
    assert 0.008 < billed <= 0.012
    asked, made = len(stub.requests), len(place.calls())
    jobs = place.run("there", max_cost=1.0, **options)
    assert [job.status for job in jobs] == ["complete", "complete"]
    assert len(set(stub.prompts())) == len(stub.prompts()) > asked
    assert not {what for _, what in place.calls()[:made]} & {what for _, what in place.calls()[made:]}


@with_ray
@slow
def test_a_cluster_of_its_own_ends_with_the_command_and_the_same_resumes_without_it(place: Place) -> None:
    """Ray is started and told to end in the midst of the answers; stdout holds results alone."""
    env = os.environ | {"BENCH_CACHE": str(place.root / "one"), "BENCH_RESULTS": str(place.root / "one" / "results")}
    env.pop("RAY_ADDRESS", None)
    words = ["run", "--plugin", str(place.root / "plugin.py"), "--backend", "fake", "--judge", "likelihood"]
    words += ["-m", "none,mine", "-n", str(CONCEPTS), "--executor", "ray", "--workers", "2", "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    with subprocess.Popen([sys.executable, "-m", "bench", *words], **pipes) as begun:
        (place.root / "driver").write_text(str(begun.pid))  # read when the plugin is loaded, long after
        while begun.poll() is None and sum(what.startswith("answer") for _, what in place.calls()) < 20:
            time.sleep(0.02)
        begun.send_signal(signal.SIGTERM)
        out, said = begun.communicate(timeout=60)
    assert begun.returncode == 143, said
    assert "executor: ray (started on this machine), workers: 2" in said
    assert said.splitlines()[-1] == "bench: ended by SIGTERM; the same command resumes"
    assert "/tmp/ray" not in said
    assert out == ""
    assert not any(alive(pid) for pid, _ in place.calls())
    assert len(list((place.root / "one" / "fits").glob("*/key.json"))) == 2 * CONCEPTS
    before = len(place.calls())
    (place.root / "driver").write_text(str(os.getpid()))
    jobs = place.run("one", methods=("none", "mine"))
    assert [job.status for job in jobs] == ["complete", "complete"]
    assert not [what for _, what in place.calls()[before:] if what.startswith("fit")]


def test_without_ray_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    plan = make(Options(backend="fake", judge="likelihood", executor="ray"))
    with pytest.raises(UsageError, match=r"pip install 'steer-or-prompt\[ray\]'"):
        plan.ready()
    with pytest.raises(UsageError, match="did you mean 'ray'"):
        make(Options(backend="fake", executor="rays"))
    with pytest.raises(UsageError, match="are for --executor ray"):
        make(Options(backend="fake", workers=2))
    (tmp_path / "mine.toml").write_text('executor = "ray"\nworkers = 2\n')
    assert from_file(tmp_path / "mine.toml") == {"executor": "ray", "workers": 2, "params": {}}
    (tmp_path / "theirs.toml").write_text('ray_address = "elsewhere.example.org:6379"\n')
    with pytest.raises(UsageError, match="ray_address is no setting of a file: say --ray-address yourself"):
        from_file(tmp_path / "theirs.toml")


def test_the_documented_prediction_is_what_its_script_gives() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "cluster.md").read_text("utf-8")
    assert "\n".join(cluster_cost.table(cluster_cost.found(cluster_cost.plans()))) in page
