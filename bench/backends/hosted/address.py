"""Where a hosted model is asked: the address as it may be shown and kept, and as it must be to be asked at all.

Invariant: what `name` gives holds no user, password or query, in which keys are written.
"""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from bench.core.errors import UsageError

HOME = "api.openai.com/v1"
"""Where OpenAI's own models are."""


def checked(url: str) -> str:
    """`url` as it is; raises UsageError where nothing could be asked there. "" is OpenAI's own."""
    if url:
        found = _split(url)
        if found is None or found.scheme not in ("http", "https") or not found.hostname:
            raise UsageError(f"OPENAI_BASE_URL or base_url is no address: write http://HOST:PORT/v1 ({_bare(url)!r})")
        if found.query or found.fragment:
            raise UsageError(f"the address of {name(url)} ends in a query: a key belongs in OPENAI_API_KEY")
    return url


def name(url: str) -> str:
    """Host, port and path: what tells one server from another; "" is OpenAI's own."""
    found = _split(url)
    if found is None:
        return _bare(url)
    host = found.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = f":{found.port}" if found.port and (found.scheme, found.port) not in (("http", 80), ("https", 443)) else ""
    named = f"{host}{port}{found.path.rstrip('/')}"
    return "" if named == HOME else named


def secrets(url: str) -> list[str]:
    """What of `url` nobody may see: its password and the values of its query."""
    found = _split(url)
    if found is None:
        return []
    kept = [found.password or "", *(value for _, value in parse_qsl(found.query))]
    return [form for value in kept if value for form in {value, unquote(value)}]


def _split(url: str) -> SplitResult | None:
    try:
        found = urlsplit(url)
        _ = found.port, (found.hostname or "").encode("idna")
    except ValueError:
        return None
    return found if url.isprintable() and " " not in url else None


def _bare(url: str) -> str:
    """Of an address that cannot be read, what holds no key."""
    return url.split("?")[0].split("#")[0].rpartition("@")[2][:60]
