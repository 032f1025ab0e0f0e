"""How busy a hosted judge is kept: ratings through the real judge, against a server that answers in 50 ms.

Prints, and writes to `judging.json`, the share of the judge's slots that were in use: the server's own
time for all answers over (workers x wall-clock time), counting 50 ms an answer and no more, so that a slow
server process counts against it. The server runs in a process of its own; ratings go through the cache as
in a run. `python benchmarks/judging.py [--rows N]`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from bench.backends.fake.backend import WORDS
from bench.core.rows import Rows
from bench.core.store import write_json
from bench.core.values import Concept, Item
from bench.judges.judging import rate
from bench.judges.llm import LLMJudge
from bench.results import provenance

SERVICE = 0.05
WORKERS = 8
GOAL = 0.9
WORDS_EACH = 100
"""Of a generated text; the paper's setting writes 128 tokens."""


class Handler(BaseHTTPRequestHandler):
    """Answers any chat with a rating after `SERVICE` seconds."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(SERVICE)
        message = {"role": "assistant", "content": "The text speaks of it throughout.\nRating: [[2]]"}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "stub",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 250, "completion_tokens": 16, "total_tokens": 266},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def serve() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


def measure(rows: int, folder: Path) -> dict[str, float]:
    """Rate `rows` distinct texts; seconds and the share of busy slots."""
    rng = np.random.default_rng(0)
    concept = Concept("ships", "ships and the sea")
    items = [
        Item("concept", concept, "Tell me a story.", f"{i}: " + " ".join(rng.choice(WORDS, WORDS_EACH)))
        for i in range(rows)
    ]
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        judge = LLMJudge("stub", base_url=f"http://127.0.0.1:{server.stdout.readline().strip()}/v1", workers=WORKERS)
        list(judge.rate(items[:WORKERS]))  # connections, imports
        kept, spent = Rows(folder / "judgements"), time.process_time()
        begun = time.perf_counter()
        found = rate(judge, items, kept, lambda steps: None)
        wall = time.perf_counter() - begun
        spent = time.process_time() - spent
        kept.close()
    finally:
        server.terminate()
        server.wait()
    assert [verdict.value for verdict in found] == [2.0] * rows
    return {
        "rows": rows,
        "workers": WORKERS,
        "service_seconds": SERVICE,
        "seconds": round(wall, 2),
        "busy": round(rows * SERVICE / (WORKERS * wall), 4),
        "cpu_ms_per_rating": round(1000 * spent / rows, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="ratings asked for [10000]")
    parser.add_argument("--serve", action="store_true", help="be the server; used by the benchmark itself")
    asked = parser.parse_args()
    if asked.serve:
        serve()
        return
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(asked.rows, Path(folder)) | {"goal": GOAL}
    print(json.dumps(found))
    if asked.rows == 10_000:
        write_json(Path(__file__).with_suffix(".json"), found | {"provenance": provenance.provenance()})


if __name__ == "__main__":
    main()
