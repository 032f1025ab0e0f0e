"""A hub that misbehaves in each of some ways: what the program says of it, a line a way, as `way: seconds: text`.

A program of its own, for the hub's client reads its address when it is imported: `python faulty_hub.py CACHE`.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
WAYS = {
    "reset": b"",
    "close": b"",
    "garbage": b"\x00\xff\x13garbage\r\n\r\n" * 4,
    "short body": JSON + b"900\r\n\r\n{",
    "empty object": JSON + b"2\r\n\r\n{}",
    "a list": JSON + b"2\r\n\r\n[]",
    "a page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    "error": b"HTTP/1.1 500 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "silence": b"",
}
now = ""


def answer(connection: socket.socket) -> None:
    """Whether it is there is answered well; any other request in the way of `now`."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    if head.startswith(b"HEAD / "):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    elif now == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif now == "silence":
        time.sleep(30)
    else:
        connection.sendall(WAYS[now])
    connection.close()


def serve(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def main() -> None:
    global now
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{listener.getsockname()[1]}", "HF_HOME": sys.argv[1]}
    from bench.core import hub
    from bench.core.errors import BenchError

    hub.ANSWER, hub.STALLED = 0.5, 1.0
    for now in WAYS:
        for ask in (
            lambda: hub.snapshot("owner/model", ("*.json",)),
            lambda: hub.fetch("owner/data", "a.parquet", "dataset"),
        ):
            begun = time.monotonic()
            try:
                told = f"found {ask()}"
            except BenchError as error:
                told = str(error)
            print(f"{now}: {time.monotonic() - begun:.1f}: {told}")


if __name__ == "__main__":
    main()
