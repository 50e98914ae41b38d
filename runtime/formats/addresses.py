"""Zarr stores that are no folder: objects of zarr and icechunk, and object storage by its address (extra `remote`)."""

import errno
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from fsae.runtime.errors import DataError, DeviceError, UsageError

from .containers import of_group, zarr_groups

if TYPE_CHECKING:
    import xarray as xr
    import zarr.abc.store

READ, WRITTEN = ("s3://", "https://", "http://"), ("s3://",)
Result = TypeVar("Result")


def is_store(given: object) -> "TypeGuard[zarr.abc.store.Store]":
    """True for a store of zarr or icechunk. Classes are compared by name: zarr takes long to import."""
    return any((one.__module__, one.__name__) == ("zarr.abc.store", "Store") for one in type(given).__mro__)


def is_address(given: object) -> TypeGuard[str]:
    """True for the address of a store.

    >>> is_address("s3://bucket/tas.zarr"), is_address("tas.zarr")
    (True, False)
    """
    return isinstance(given, str) and given.lower().startswith(READ)


def open_address(address: str, *, write: bool = False) -> "zarr.abc.store.Store":
    """The store at an address; its failures are OSErrors. Keys and the endpoint of S3 come from AWS_* variables.

    UsageError for an address that names no store, or that cannot be written; DeviceError without obstore.
    """
    if write and not address.lower().startswith(WRITTEN):
        raise UsageError(f"found the output {address}", "an address that begins with s3://", "give one, or a path")
    try:
        from obstore.exceptions import BaseError
        from obstore.store import HTTPStore, S3Store
    except ImportError as error:
        raise DeviceError(
            f"{address} needs obstore, which cannot be imported ({error})", advice='pip install "fsae[remote]"'
        ) from None
    from zarr.storage import ObjectStore, WrapperStore

    class Reported(WrapperStore[Any]):
        """A store whose failures are OSErrors, as of files."""

        async def get(self, *given: Any, **named: Any) -> Any:
            return await _reported(self._store.get(*given, **named), BaseError)

        async def set(self, *given: Any, **named: Any) -> None:
            await _reported(self._store.set(*given, **named), BaseError)

        async def delete(self, key: str) -> None:
            await _reported(self._store.delete(key), BaseError)

        async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
            names = self._store.list_prefix(prefix)
            while (name := await _reported(anext(names, None), BaseError)) is not None:
                yield name

    try:
        if address.lower().startswith("s3://"):
            opened: Any = S3Store.from_url(address)
        else:
            opened = HTTPStore.from_url(address, client_options={"allow_http": True})
        return Reported(ObjectStore(opened, read_only=not write))
    except (BaseError, ValueError) as error:
        found = f"found the address {address} ({error})"
        raise UsageError(found, "such as s3://bucket/tas.zarr", "correct it") from None


async def _reported(call: Awaitable[Result], failures: type[Exception]) -> Result:
    try:
        return await call
    except failures as error:
        raise OSError(errno.EIO, str(error).strip().splitlines()[0]) from None


def open_store(store: "zarr.abc.store.Store", name: str, group: str = "") -> "xr.Dataset":
    """The dataset of a store, or of a group in it, as of `containers.open_container`; `name` is its name in messages.

    Consolidated metadata is read where it is there: servers of https:// do not tell what else they hold.
    """
    import zarr  # start-up time

    try:
        whole = zarr.open_group(store, mode="r")
    except FileNotFoundError:
        found = f"{name} holds no Zarr group, or an unfinished output"
        raise DataError(found, advice="give the address of a group that is whole") from None
    consolidated = getattr(whole.metadata, "consolidated_metadata", None) is not None
    how = {"engine": "zarr", "store": store, "root": "", "consolidated": consolidated}
    return of_group(name, group, zarr_groups(store, ""), how)
