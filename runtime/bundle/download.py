"""One file over HTTP: asked for by its address, its hash and the most it may hold, and there only if it is right."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

from fsae.runtime.errors import BundleError, DeviceError

TIMEOUT_S = 30  # without a byte
BLOCK_BYTES = 1 << 16
AGAIN = "check the address and the connection, then try again"


def file_url(url: str, name: str) -> str:
    """The address of a file in the folder at a URL, or beside the manifest there; a query, as of signed URLs, stays.

    >>> file_url("https://example.org/bundles/mine?key=1", "tables.npz")
    'https://example.org/bundles/mine/tables.npz?key=1'
    """
    parts = urlsplit(url)
    folder = parts.path.removesuffix("/manifest.json")
    return urlunsplit((parts.scheme, parts.netloc, f"{folder.rstrip('/')}/{name}", parts.query, ""))


def shown_url(url: str) -> str:
    """A URL without what may be secret: user, password, query.

    >>> shown_url("https://me:word@example.org/mine.zip?key=1")
    'https://example.org/mine.zip'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Limited:
    """A file that takes at most so many bytes, and tells how many came; BundleError for more."""

    def __init__(self, file: BinaryIO, most: int, moved: Callable[[int], None], url: str) -> None:
        self.file, self.left, self.moved, self.url = file, most, moved, url

    def write(self, data: bytes) -> None:
        """Write what came."""
        self.left -= len(data)
        if self.left < 0:
            raise BundleError(f"{shown_url(self.url)} holds more bytes than it should", advice="check the address")
        self.file.write(data)
        self.moved(len(data))

    def flush(self) -> None:
        """Write what is buffered."""
        self.file.flush()


def download(url: str, target: Path, sha256: str, most: int, moved: Callable[[int], None]) -> None:
    """Download a file of at most `most` bytes and of this hash to `target`; nothing is there after an error.

    DeviceError without the libraries, BundleError if the file cannot be had or is another.
    """
    try:
        import pooch
        from requests.exceptions import RequestException
    except ImportError as error:
        raise DeviceError(
            f"fetching from a URL needs pooch, which cannot be imported ({error})", advice='pip install "fsae[fetch]"'
        ) from None
    pooch.get_logger().setLevel(logging.ERROR)  # what is done is said by the command

    def limited(address: str, path: str, _: object) -> None:
        get = pooch.HTTPDownloader(chunk_size=BLOCK_BYTES, timeout=TIMEOUT_S, headers={"Accept-Encoding": "identity"})
        with open(path, "wb") as file:
            get(address, Limited(file, most, moved, url), None)

    try:
        pooch.retrieve(
            url, known_hash=f"sha256:{sha256}", fname=target.name, path=target.absolute().parent, downloader=limited
        )
    except RequestException as error:
        raise BundleError(f"cannot get {shown_url(url)}: {_reason(error)}", advice=AGAIN) from None
    except ValueError:  # as pooch says that the hash differs
        raise BundleError(
            f"{shown_url(url)} is not the file that was asked for", f"SHA-256 {sha256}", "check address and hash"
        ) from None


def _reason(error: Exception) -> str:
    """The reason in an error of requests: the answer of the server, or the innermost cause."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", cause)).rpartition(": ")[2] or type(error).__name__
