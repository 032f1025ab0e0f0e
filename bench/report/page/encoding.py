"""Values as scripts, and names of files.

Invariant: whatever the value holds, the script is ASCII, has no `<`, `>` or `&`, and is one call with one string;
whatever a name holds, the key made of it is hexadecimal.
"""

from __future__ import annotations

import json
from typing import Any

from bench.core.content import digest


def script(name: str, value: Any) -> bytes:
    """A script that hands `value` to the page under `name`.

    A file beside the page cannot be fetched from `file://`, but a script can be loaded. The value goes through
    `JSON.parse`, since in an object literal a key `__proto__` would be more than a key.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    text = text.replace("\\", "\\\\").replace("'", "\\'")
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return f"bench.put({json.dumps(name)},JSON.parse('{text}'));\n".encode("ascii")


def key(name: str) -> str:
    """A file's or folder's name for something that data names."""
    return digest(name)[:10]
