"""An OpenAI-compatible server on this machine whose behaviour a test sets (chats, files, batches), and
runs of `bench` that are judged by it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from bench.backends.hosted.backend import QUESTION
from bench.cli.main import main

Reply = tuple[int, str, dict[str, str]]
"""(status, body, headers)"""
JSON = {"Content-Type": "application/json"}


def answer(text: str, likely: list[tuple[str, dict[str, float]]] | None = None, **extra: Any) -> Reply:
    """A chat completion that says `text`; `likely` is per token (token, {alternative: log-probability})."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if likely is not None:
        listed = [
            {"token": t, "logprob": o.get(t, -9.0), "top_logprobs": [{"token": k, "logprob": v} for k, v in o.items()]}
            for t, o in likely
        ]
        choice["logprobs"] = {"content": listed}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "served-model", "choices": [choice]}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    return 200, json.dumps(body | {"usage": usage} | extra), JSON


def error(
    status: int, text: str = '{"error": {"message": "no", "type": "x"}}', kind: str = "application/json", **more: str
) -> Reply:
    return status, text, {"Content-Type": kind, "Retry-After-Ms": "1"} | more


def refusal(status: int, message: str, code: str = "") -> Reply:
    return error(status, json.dumps({"error": {"message": message, "type": "x", "code": code}}))


AXES = {"You grade how clearly": "concept", "You grade whether": "instruction", "You grade how well": "fluency"}


def axis_of(prompt: str) -> str:
    return next(axis for beginning, axis in AXES.items() if prompt.startswith(beginning))


def rated(prompt: str) -> int:
    """The rating this server gives to a prompt: any of 0, 1, 2."""
    return sum(prompt.encode()) % 3


def well(number: int, prompt: str) -> Reply:
    return answer(f"Let me see.\nRating: [[{rated(prompt)}]]")


@dataclass
class Stub:
    """A server that logs every request. `behave`: (number of the request, its prompt) -> what to send.

    None drops the connection; a number is how long it hangs, in seconds, before it drops it.
    """

    behave: Callable[[int, str], Reply | float | None] = well
    url: str = ""
    first: Reply | float | None = field(default_factory=lambda: answer("yes", usage={"prompt_tokens": 0}))
    """What the question gets that a run asks before its first fit; it is logged as `probed` alone."""
    probed: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    """Prompts that got a whole answer."""
    keys: set[str] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: Callable[[int], str] = lambda seen: "completed"
    """Status of a batch when it is looked at for the n-th time."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def prompts(self) -> list[str]:
        return [request["messages"][-1]["content"] for request in self.requests]

    def take(self, request: dict[str, Any], path: str) -> Reply | float | None:
        prompt = request["messages"][-1]["content"]
        if prompt == QUESTION:
            self.probed += 1
            return self.first
        with self.lock:
            self.requests.append(request | {"path": path})
            number = len(self.requests)
        return self.behave(number, prompt)

    def upload(self, form: bytes) -> Reply:
        """A file of requests out of a multipart form."""
        begin = form.index(b"\r\n\r\n", form.index(b'filename="')) + 4
        name = f"file-{len(self.files)}"
        self.files[name] = form[begin : form.index(b"\r\n--", begin)].decode()
        return self.json({"id": name, "object": "file", "purpose": "batch", "bytes": 1, "created_at": 1})

    def start(self, request: dict[str, Any]) -> Reply:
        name = f"batch-{len(self.batches)}"
        self.batches[name] = request | {"id": name, "object": "batch", "created_at": 1, "seen": 0}
        return self.json(self.batches[name] | {"status": "validating"})

    def look(self, name: str) -> Reply:
        """The state of a batch; once it is over, its requests are answered."""
        if name not in self.batches:
            return refusal(404, "no such batch")
        batch = self.batches[name]
        batch["seen"] += 1
        status = self.statuses(batch["seen"])
        found = {k: v for k, v in batch.items() if k != "seen"} | {"status": status}
        if status in ("completed", "expired"):
            lines: dict[str, list[str]] = {"output": [], "error": []}
            for line in self.files[batch["input_file_id"]].splitlines():
                row = json.loads(line)
                reply = self.take(row["body"], "batch")
                if not isinstance(reply, tuple):
                    continue  # not reached before the batch expired
                kind = "output" if reply[0] == 200 else "error"
                body = {"status_code": reply[0], "body": json.loads(reply[1])}
                lines[kind].append(json.dumps({"custom_id": row["custom_id"], "response": body}))
            for kind, rows in lines.items():
                if rows:
                    self.files[f"{name}-{kind}"] = "\n".join(rows) + "\n"
                    found[f"{kind}_file_id"] = f"{name}-{kind}"
        return self.json(found)

    @staticmethod
    def json(value: Any) -> Reply:
        return 200, json.dumps(value), JSON


@contextmanager
def serving() -> Iterator[Stub]:
    made = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            made.keys.add(self.headers.get("Authorization", ""))
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/files"):
                self.send(made.upload(content))
            elif self.path.endswith("/batches"):
                self.send(made.start(json.loads(content)))
            else:
                request = json.loads(content)
                reply = made.take(request, self.path)
                told = self.send(reply) and request["messages"][-1]["content"] != QUESTION
                if told and isinstance(reply, tuple) and reply[0] == 200:
                    with made.lock:
                        made.answered.append(request["messages"][-1]["content"])

        def do_GET(self) -> None:
            parts = self.path.split("/")
            if parts[-1] == "content":
                self.send((200, made.files[parts[-2]], {"Content-Type": "application/octet-stream"}))
            else:
                self.send(made.look(parts[-1]))

        def send(self, reply: Reply | float | None) -> bool:
            """Whether the whole reply left; a client that has gone does not stop the server."""
            if not isinstance(reply, tuple):
                time.sleep(reply or 0.0)
                self.close_connection = True
                self.connection.close()
                return False
            status, body, headers = reply
            data = body.encode()
            try:
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
            except OSError:
                self.close_connection = True
                return False
            if int(headers.get("Content-Length", 0)) > len(data):  # half an answer, and then nothing
                self.close_connection = True
                return False
            return True

        def log_message(self, *_: Any) -> None: ...

        def finish(self) -> None:
            with suppress(OSError):  # a connection that a test closed
                super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that was killed
    made.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()


def bench(*words: str) -> Result:
    result = CliRunner().invoke(main, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a user would see a traceback
    return result


def run(*words: str, methods: str = "none", concepts: int = 2, judge: str = "judge-model") -> Result:
    given = ("--backend", "fake", "-m", methods, "-n", str(concepts), "--judge", f"openai:{judge}", "--json")
    return bench("run", *given, *words)


def records(result: Result, code: int = 0) -> list[dict[str, Any]]:
    """The run.json of each method of a run that ended with `code`."""
    assert result.exit_code == code, result.stderr
    return [json.loads(Path(row["path"]).read_text("utf-8")) for row in json.loads(result.stdout)["runs"]]


def one_line(result: Result, *parts: str) -> str:
    """The run ended with exit code 1 and one `bench:` line that holds `parts`, the last of stderr."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("bench:")]
    assert result.exit_code == 1, result.stderr
    assert len(lines) == 1
    assert result.stderr.endswith(lines[0] + "\n"), result.stderr
    assert result.stdout == ""
    for part in parts:
        assert part in lines[0]
    return lines[0]


def judgements(tmp_path: Path) -> list[dict[str, Any]]:
    found = []
    for path in (tmp_path / "cache" / "rows" / "judgements").rglob("*.jsonl"):
        found += [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return found


ASKED = 2 * (2 + 3) * 3
"""Ratings of `none` on two concepts: two select and three test prompts, three axes."""
