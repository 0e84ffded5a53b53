"""What goes wrong with Chroma: told with the place, what happened and what to do; and what of it may pass by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agents.chroma_place import ADDRESS, SECONDS, TOKEN
from agents.errors import RetrieverError

if TYPE_CHECKING:
    from httpx import HTTPError

_FORBIDDEN = (401, 403)
_PASSING = (408, 425, 429, 502, 503, 504)
"""Statuses of a server, or of a proxy before it, that may answer soon."""


@contextmanager
def chroma_errors(doing: str) -> Iterator[None]:
    """Turn what Chroma, its server, or whatever answers in its place raises while `doing` into a RetrieverError."""
    from chromadb.errors import ChromaError, NotFoundError
    from httpx import HTTPError

    try:
        yield
    except NotFoundError as error:
        raise RetrieverError(f"{doing}: it was removed or built again meanwhile ({error}); open it again") from error
    except (ChromaError, OSError) as error:
        raise RetrieverError(
            f"{doing}: {error or type(error).__name__}; is the disk full or the store damaged?"
        ) from error
    except HTTPError as error:
        raise RetrieverError(f"{doing}: {told(error)}") from error
    except json.JSONDecodeError as error:
        raise RetrieverError(f"{doing}: what answers is no Chroma server ({error}); correct {ADDRESS}") from error


def told(error: HTTPError) -> str:
    """Return which server failed, how, and what to do."""
    from httpx import DecodingError, HTTPStatusError, TimeoutException

    where = f"the Chroma server at {_address(error)}"
    if isinstance(error, HTTPStatusError):
        status = error.response.status_code
        remedy = "its log says more"
        if status in _FORBIDDEN:
            remedy = f"give its token in {TOKEN}"
        elif status in _PASSING:
            remedy = "see that it runs behind what answered"
        return f"{where} refused ({error}); {remedy}"
    if isinstance(error, DecodingError):
        return f"{where} does not speak as Chroma does ({error}); correct {ADDRESS}"
    longer = f", or give it longer than {SECONDS}" if isinstance(error, TimeoutException) else ""
    return f"{where} did not answer ({type(error).__name__}: {error}); see that it runs{longer}"


def is_away(error: RetrieverError) -> bool:
    """Return whether the server did not answer, as opposed to refusing: the same may be answered soon."""
    from httpx import HTTPError, HTTPStatusError

    cause = error.__cause__
    if isinstance(cause, HTTPStatusError):
        return cause.response.status_code in _PASSING
    return isinstance(cause, HTTPError)


def _address(error: HTTPError) -> str:
    try:
        url = error.request.url
    except RuntimeError:  # raised outside any request
        return "an unknown address"
    return f"{url.scheme}://{url.netloc.decode('ascii')}"
