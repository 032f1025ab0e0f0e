"""Hosted models that fail, are killed over, or attack.

A server on this machine bills every request it takes, fails at random in as many ways as servers do, and says more in
its answers than it should; `bench run` is killed while it asks, and the same command is run again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.backends.hosted import pool
from bench.backends.hosted.answers import read
from bench.core.errors import StopRun
from bench.core.money import SpendingLimit
from bench.core.values import Concept, Item
from bench.judges.llm import LLMJudge
from bench.judges.replies import parse
from bench.judges.rubrics import filled, neutral
from benchmarks.faults.counts import Count

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from stub_server import JSON, Reply, Stub, error, rated, serving

KEY = "sk-a-key-that-nobody-may-see-0123456789"
WORKERS, PRICE = 6, 2.0
"""Requests under way at once in a killed run; dollars per million tokens, read and written alike."""
WRITTEN = 20
"""Tokens of each answer."""


def tokens(prompt: str) -> int:
    return len(prompt) // 4


def said(prompt: str, usage: Any = None, content: Any = None, **more: Any) -> str:
    """An answer's body: a rating, and what it took."""
    text = f"So it is.\nRating: [[{rated(prompt)}]]"
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content or text} | more}
    honest = {"prompt_tokens": tokens(prompt), "completion_tokens": WRITTEN}
    return json.dumps({"id": "x", "model": "stub", "choices": [choice], "usage": usage or honest})


CACHED = {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}}
Fault = Callable[[str], Reply | float | None]
FREE: dict[str, Fault] = {
    "429": lambda p: error(429),
    "429 with a long wait": lambda p: error(429, **{"Retry-After-Ms": "150"}),
    "500": lambda p: error(500),
    "502 with a page": lambda p: error(502, "<html>\n<h1>Bad</h1></html>", "text/html"),
    "503": lambda p: error(503, "busy", "text/plain"),
    "408": lambda p: error(408),
    "an error that echoes the key": lambda p: error(500, json.dumps({"error": {"message": f"bad key {KEY}"}})),
    "an error of great depth": lambda p: error(500, '{"error": ' * 3000),
    "a field refused": lambda p: error(400, json.dumps({"error": {"message": "no", "param": "seed"}})),
    "a field refused by its place": lambda p: error(422, json.dumps({"detail": [{"loc": ["body", "temperature"]}]})),
}
"""Without an answer, and without a bill."""
BILLED: dict[str, Fault] = {
    "a connection that drops": lambda p: None,
    "a socket that hangs": lambda p: 0.8,
    "half of the JSON": lambda p: (200, said(p)[:60], JSON),
    "a body that is cut off": lambda p: (200, said(p)[:60], JSON | {"Content-Length": str(len(said(p)))}),
    "an empty body": lambda p: (200, "", JSON),
    "a page in place of an answer": lambda p: (200, "<html>hello</html>", {"Content-Type": "text/html"}),
    "JSON of another shape": lambda p: (200, '["no"]', JSON),
    "no choices": lambda p: (200, '{"choices": []}', JSON),
    "JSON of great depth": lambda p: (200, '{"choices": ' * 3000, JSON),
    "content of an unknown kind": lambda p: (200, said(p, content=[{"type": "image"}]), JSON),
}
"""Without an answer that can be read, though the server may bill it."""
ANSWERED: dict[str, Fault] = {
    "content in parts": lambda p: (
        200, said(p, content=[{"type": "thinking", "thinking": "Rating: [[0]]"},
                              {"type": "text", "text": f"Rating: [[{rated(p)}]]"}]), JSON),
    "a thought before the rating": lambda p: (
        200, said(p, content=f"<think>Rating: [[0]]</think>\nRating: [[{rated(p)}]]"), JSON),
    "usage below zero": lambda p: (200, said(p, {"prompt_tokens": -9000, "completion_tokens": -1}), JSON),
    "more cached than read": lambda p: (200, said(p, CACHED), JSON),
    "infinite usage": lambda p: (200, said(p).replace(f": {WRITTEN}}}", ": 1e999}"), JSON),
    "an answer that echoes the key": lambda p: (
        200, said(p, content=f"You sent {KEY}.\nRating: [[{rated(p)}]]"), JSON),
}  # fmt: skip
"""Whole answers, oddly told."""
KINDS = FREE | BILLED | ANSWERED
REFUSED = {"a field refused": "seed", "a field refused by its place": "temperature"}


class Server:
    """What a stub does, at random, and what it bills in tokens."""

    def __init__(self, stub: Stub, seed: int, share: float) -> None:
        self.stub, self.random, self.share = stub, random.Random(seed), share
        self.billed, self.faults = 0, Counter[str]()
        stub.behave = self.behave

    def behave(self, number: int, prompt: str) -> Reply | float | None:
        fault = self.random.choice(list(KINDS)) if self.random.random() < self.share else ""
        if REFUSED.get(fault, "messages") not in self.stub.requests[number - 1]:
            fault = ""  # it was left out already
        if fault in FREE:
            self.faults[fault] += 1
            return FREE[fault](prompt)
        self.billed += tokens(prompt) + WRITTEN
        if fault:
            self.faults[fault] += 1
            return KINDS[fault](prompt)
        time.sleep(self.random.random() * 0.02)
        return 200, said(prompt), JSON


def killed(folder: Path, seed: int) -> dict[str, int]:
    """One run that is killed three times at random places and then finishes: what it lost."""
    rng = random.Random(seed)
    with serving() as stub:
        server = Server(stub, seed, 0.3)
        room = {"BENCH_CACHE": str(folder / "cache"), "BENCH_RESULTS": str(folder / "results"), "NO_PROXY": "127.0.0.1"}
        environment = os.environ | room | {"OPENAI_BASE_URL": stub.url, "OPENAI_API_KEY": KEY}
        words = [sys.executable, "-c", "from bench.cli.main import main; main()", "run", "--backend", "fake", "-n", "3",
                 "-m", "none,prompt", "--judge", "openai:m", "--json", "--max-unscored", "1"]  # fmt: skip
        fields = {"price": f"{PRICE},{PRICE}", "timeout": "0.5", "workers": WORKERS, "retries": 9}
        words += [word for name, value in fields.items() for word in ("-p", f"openai.{name}={value}")]
        wrong, streams, output = Counter[str](), b"", b""
        for attempt in range(6):
            asked, until = len(stub.requests), len(stub.requests) + rng.randrange(1, 60)
            process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            while attempt < 3 and process.poll() is None and len(stub.requests) < until:
                time.sleep(0.002)
            if len(stub.requests) > asked:
                title = Path(f"/proc/{process.pid}/cmdline")
                wrong["key"] += title.is_file() and KEY.encode() in title.read_bytes()
            if attempt < 3:
                process.kill()
            if attempt == 3:
                server.share = 0.05
            output, errors = process.communicate()
            streams += output + errors
            wrong["traceback"] += b"Traceback" in errors
            if attempt >= 3 and process.returncode == 0:
                found = [json.loads(Path(row["path"]).read_text()) for row in json.loads(output)["runs"]]
                if not any(data["counts"]["unanswered"] for data in found):
                    break
        else:
            return wrong | {"lost": 1, "kills": 3, "requests": len(stub.requests)}
    ever = found[-1]["judging"]["ever"]
    wrong["lost"] = sum(data["counts"]["unscored"] for data in found)
    again = sum(n - 1 for n in Counter(stub.answered).values())
    odd = sum(server.faults[name] for name in BILLED)  # whole answers that say nothing are asked again
    wrong["twice"] = max(0, again - odd - 3 * WORKERS)
    wrong["forgotten"] += ever["dollars"] + ever["dollars_unsure"] < server.billed * PRICE / 1e6 - 1e-5
    files = [path for path in folder.rglob("*") if path.is_file()]
    wrong["key"] += KEY.encode() in streams or any(KEY.encode() in path.read_bytes() for path in files)
    return wrong | {"kills": 3, "requests": len(stub.requests), "faults": sum(server.faults.values())}


def capped(seed: int) -> tuple[bool, int]:
    """Whether a server billed more than a limit, whoever many asked at once, and how many requests it took."""
    rng = random.Random(seed)
    with serving() as stub:
        server, price = Server(stub, seed, 0.3), rng.choice([0.1, 1.0, 20.0, 300.0])
        purse = SpendingLimit(rng.uniform(1, 40) * 900 * price / 1e6)
        os.environ |= {"OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}
        judge = LLMJudge("m", stub.url, workers=rng.randrange(1, 65), retries=3, timeout=0.5, price=(price, price))
        judge.fund(purse)
        items = [
            Item("fluency", Concept("c", "ships"), "Tell.", f"Text {i}. " * rng.randrange(1, 40)) for i in range(80)
        ]
        with suppress(StopRun):
            list(judge.rate(items))
        return server.billed * price / 1e6 > purse.limit + 1e-9, len(stub.requests)


NAMES = (
    *("choices", "message", "content", "usage", "text", "type", "logprobs", "token", "logprob", "top_logprobs"),
    *("prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens", "model", "finish_reason"),
)


def body(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON, with the names that an answer has."""
    kind = rng.randrange(9 if depth < 5 else 6)
    if kind >= 7 or (depth == 0 and kind > 2):
        return {name: body(rng, depth + 1) for name in rng.sample(NAMES, rng.randrange(1, 6))}
    if kind == 6:
        return [body(rng, depth + 1) for _ in range(rng.randrange(3))]
    return rng.choice([None, True, rng.choice([-1, 0, 5, 10**400]), rng.choice([1.5, 1e308, float("nan")]), "text", ""])


def answer(rng: random.Random) -> Any:
    """A chat completion of which one part is any JSON."""
    whole = json.loads(said("x"))
    choice = whole["choices"][0]
    place = rng.choice([whole, choice, choice["message"], whole["usage"]])
    place[rng.choice([*place, *NAMES])] = body(rng, 1)
    return whole


PIECES = (
    *(
        "Rating",
        "score",
        "Final ",
        ":",
        "：",
        "=",
        " ",
        "\n",
        "[[",
        "]]",
        "0",
        "1",
        "2",
        ".",
        "5",
        "x",
        "\\boxed{",
        "}",
    ),
    *("**", '"', "{", "`", "/2", " out of 2", "### ", "(", "-", "e0", "</s>", " or ", "<think>", "</think>"),
)


def text(rng: random.Random) -> str:
    """Words of a reply in any order, most of them with a rating."""
    return rng.choice(["", "Rating:", '{"rating":', "> Score: ["]) + "".join(rng.choices(PIECES, k=rng.randrange(9)))


def failed(call: Callable[[], bool]) -> bool:
    """Whether something that holds was not so, or raised."""
    try:
        return not call()
    except Exception:  # whatever it is, it would have been a traceback
        return True


def shaped(found: Any) -> bool:
    """Whether an answer's JSON is read, or told apart by the error for it."""
    try:
        reply = read(found)
    except ValueError:
        return True
    took = reply.taken
    return isinstance(reply.completion.text, str) and (took is None or 0 <= took.cached <= took.read <= 10**7)


def sound(reply: str, finish: str) -> bool:
    verdict = parse(reply, finish)
    return bool(verdict.reason) if verdict.value is None else 0 <= verdict.value <= 2


def fenced(words: str) -> bool:
    """Whether nothing in a rated text can be read as a rating, and it stands between marks that it does not hold."""
    asked = filled(Item("concept", Concept("c", "ships"), "Tell.", words))
    mark = asked.split("first line ")[1].split(" and ends")[0]
    return parse(neutral(words)).value is None and mark not in words and asked.count(mark) == 3


def count(scale: float, seed: int) -> list[Count]:
    rng, first = random.Random(seed), pool.FIRST
    total: Counter[str] = Counter()
    rounds = max(1, round(16 * scale))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            total.update(killed(Path(folder), rng.randrange(10**9)))
    pool.FIRST = 0.01
    limits = [capped(rng.randrange(10**9)) for _ in range(max(2, round(60 * scale)))]
    pool.FIRST = first
    many = max(100, round(20_000 * scale))
    ways = len(KINDS)
    return [
        Count(
            f"`kill -9` of `bench run` while a server that fails in {ways} ways is asked, then the same command",
            total["kills"],
            total["lost"] + total["traceback"],
            f"ratings lost, tracebacks; {total['requests']:,} requests, {total['faults']:,} of them faulty",
        ),
        Count("requests of those runs, paid twice", total["requests"], total["twice"],
              f"whole answers asked for again beyond those under way at a kill ({WORKERS})"),
        Count("runs of those whose spending is set against the server's bills", rounds, total["forgotten"],
              "recorded as spent or perhaps billed: less than what was billed"),
        Count("the key, in their files, streams and process titles", rounds, total["key"], "found anywhere"),
        Count("`--max-cost` with 1 to 64 requests at once, a random price, and the same faults", len(limits),
              sum(over for over, _ in limits), f"billed more; {sum(n for _, n in limits):,} requests"),
        Count("answers of any shape", 2 * many,
              sum(failed(lambda: shaped(answer(rng))) + failed(lambda: shaped(body(rng))) for _ in range(many)),
              "a traceback, or a count of tokens that cannot be"),
        Count("replies of any words", many,
              sum(failed(lambda: sound(text(rng), rng.choice(["stop", "length"]))) for _ in range(many)),
              "a traceback, a rating off the scale, or none without a reason"),
        Count("rated texts that pose as a rating or as the rubric", many,
              sum(failed(lambda: fenced(text(rng))) for _ in range(many)),
              "a rating could be read from the text, or the text holds its mark"),
    ]  # fmt: skip
