"""What a Tiled server answers, or does not, as exceptions in words."""

from __future__ import annotations

from epicsrs_bulk._sink_errors import SinkError


class TiledError(SinkError):
    """A Tiled server cannot be reached, or has refused something; the message names its URL, the cause says all."""


def explained(error: Exception, url: str, what: str) -> Exception:
    """The error of a request as a TiledError; any other as it is."""
    from httpx import ConnectError, HTTPError, HTTPStatusError

    if isinstance(error, ConnectError | ConnectionError):
        return TiledError(f"{url}: cannot be reached, {what}: {error}")
    if isinstance(error, HTTPStatusError):
        return TiledError(f"{url}: {what}: {_answer(error.response.status_code, str(error))}")
    if isinstance(error, HTTPError):
        return TiledError(f"{url}: {what}: {type(error).__name__}: {error}")
    return error


def _answer(status: int, words: str) -> str:
    if status == 401 or status == 403:
        return f"the server does not let this API key do that ({status})"
    if status >= 500:
        return f"the server failed, its log says why: {words}"
    return words
