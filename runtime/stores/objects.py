"""The objects of a Zarr store by their names, any number at once; failures of the store become one OutputError."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fsae.runtime.errors import FsaeError, OutputError
from fsae.runtime.input.sources import reason
from fsae.runtime.signals import uninterrupted

if TYPE_CHECKING:
    from zarr.abc.store import Store

METADATA = "zarr.json"
AT_ONCE = 32  # calls to a store
Result = TypeVar("Result")


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    """Whatever a store raises, each kind its own, as an OutputError; a call of it is not interrupted."""
    try:
        with uninterrupted():
            yield
    except FsaeError:
        raise
    except Exception as error:
        advice = "check the keys to the store, its space and the connection, or give another output"
        raise OutputError(f"cannot write {name}: {reason(error)}", advice=advice) from None


def _each(name: str, calls: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
    """The results of calls to a store, in their order."""
    from zarr.core.sync import sync

    async def everything() -> list[Result]:
        free = asyncio.Semaphore(AT_ONCE)

        async def one(call: Callable[[], Awaitable[Result]]) -> Result:
            async with free:
                return await call()

        return await asyncio.gather(*map(one, calls))

    with _errors(name):
        return sync(everything())


def read(store: "Store", names: Sequence[str], name: str) -> list[bytes | None]:
    """The objects of these names, None for one that is not there; `name` is that of the store in messages."""
    from zarr.core.buffer import default_buffer_prototype

    kind = default_buffer_prototype()
    found: list[Any] = _each(name, [lambda one=one: store.get(one, kind) for one in names])  # type: ignore[misc]
    return [None if one is None else one.to_bytes() for one in found]


def write(store: "Store", objects: Mapping[str, bytes], name: str) -> None:
    """Put objects under their names, each whole; metadata first, as icechunk takes chunks of known arrays only."""
    from zarr.core.buffer import default_buffer_prototype

    make = default_buffer_prototype().buffer.from_bytes
    metadata = [one for one in objects if one.endswith(METADATA)]
    for some in (metadata, [one for one in objects if not one.endswith(METADATA)]):
        _each(name, [lambda one=one: store.set(one, make(objects[one])) for one in some])  # type: ignore[misc]


def remove(store: "Store", names: Sequence[str], name: str) -> None:
    """Remove objects; metadata last, as icechunk knows chunks by their arrays."""
    metadata = [one for one in names if one.endswith(METADATA)]
    for some in ([one for one in names if not one.endswith(METADATA)], metadata):
        _each(name, [lambda one=one: store.delete(one) for one in some])  # type: ignore[misc]


def listed(store: "Store", name: str) -> set[str]:
    """The names of all objects of a store."""

    async def found() -> set[str]:
        return {one async for one in store.list_prefix("")}

    return _each(name, [found])[0]
