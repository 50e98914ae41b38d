"""libfsae, the C library of export/examples/native, as Python sees it by ctypes."""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

F32 = np.ndarray


class Description(ctypes.Structure):
    """struct fsae_description."""

    _fields_ = [
        *((name, c_char_p) for name in ("name", "precision", "step", "calendar")),
        *((name, c_int64) for name in ("variables", "pixels", "latent_pixels")),
        *((name, c_int32) for name in ("zoom", "latent_zoom", "window", "previous", "fast")),
        ("forcing_name", c_char_p),
        ("forcing_units", c_char_p),
        ("forcing_range", c_double * 2),
    ]


class Request(ctypes.Structure):
    """struct fsae_request."""

    _fields_ = [
        ("start", c_char_p),
        ("steps", c_int64),
        ("member", c_int64),
        ("seed", c_uint64),
        ("forcing", POINTER(c_float)),
        ("initial", POINTER(c_float)),
        ("fast", c_int32),
    ]


def pointer(array: np.ndarray | None, kind: Any = c_float) -> Any:
    """The address of an array for C, NULL for None."""
    return None if array is None else array.ctypes.data_as(POINTER(kind))


class RefusedError(Exception):
    """A status other than 0, and the sentence about it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status, self.sentence = status, sentence


def load(path: Path) -> ctypes.CDLL:
    """The library at a path, its functions declared."""
    library = ctypes.CDLL(str(path))
    fields = (POINTER(c_float), c_size_t)
    declared: Mapping[str, Sequence[Any]] = {
        "open": (c_char_p, c_char_p, c_int, POINTER(c_void_p)),
        "describe": (c_void_p, POINTER(Description)),
        "phase": (c_void_p, c_char_p, POINTER(c_double)),
        "encode": (c_void_p, c_int64, POINTER(c_double), *fields, *fields),
        "decode": (c_void_p, c_int64, POINTER(c_double), *fields, *fields),
        "draw": (c_void_p, POINTER(Request), *fields),
    }
    for name, arguments in declared.items():
        getattr(library, f"fsae_{name}").argtypes = arguments
    library.fsae_close.argtypes = (c_void_p,)
    library.fsae_close.restype = None
    library.fsae_error.restype = c_char_p
    return library


class Model:
    """An opened bundle; every failure is a `RefusedError`."""

    def __init__(self, library: ctypes.CDLL, folder: Path, precision: str | None = None, threads: int = 1) -> None:
        self.library, self.handle, self.facts = library, c_void_p(), Description()
        wanted = None if precision is None else precision.encode()
        self._call("open", str(folder).encode(), wanted, threads, ctypes.byref(self.handle), model=False)
        self._call("describe", ctypes.byref(self.facts))

    def _call(self, name: str, *arguments: Any, model: bool = True) -> None:
        status = getattr(self.library, f"fsae_{name}")(*((self.handle,) if model else ()), *arguments)
        if status:
            raise RefusedError(status, self.library.fsae_error().decode())

    def close(self) -> None:
        """Close it."""
        self.library.fsae_close(self.handle)
        self.handle = c_void_p()

    def phase(self, date: str) -> float:
        """The phase of the step that holds a date."""
        found = c_double()
        self._call("phase", date.encode(), ctypes.byref(found))
        return found.value

    def _convert(self, name: str, phases: np.ndarray, given: F32, pixels: int) -> F32:
        found = np.full((*given.shape[:-1], pixels), np.nan, dtype=np.float32)
        times, one = np.ascontiguousarray(phases, dtype=np.float64), np.ascontiguousarray(given, dtype=np.float32)
        self._call(name, len(one), pointer(times, c_double), pointer(one), one.size, pointer(found), found.size)
        return found

    def encode(self, phases: np.ndarray, fields: F32) -> F32:
        """Latents (step, variable, latent pixel) of fields (step, variable, pixel)."""
        return self._convert("encode", phases, fields, self.facts.latent_pixels)

    def decode(self, phases: np.ndarray, latents: F32) -> F32:
        """Fields of latents."""
        return self._convert("decode", phases, latents, self.facts.pixels)

    def draw(self, start: str, steps: int, **entries: Any) -> F32:
        """Fields (step, variable, pixel) of a member; `entries` of the request."""
        found = np.full((steps, self.facts.variables, self.facts.pixels), np.nan, dtype=np.float32)
        arrays = {name: entries.pop(name, None) for name in ("forcing", "initial")}
        given = {name: np.ascontiguousarray(a, dtype=np.float32) for name, a in arrays.items() if a is not None}
        addresses = {name: pointer(array) for name, array in given.items()}
        request = Request(start=start.encode(), steps=steps, **addresses, **entries)
        self._call("draw", ctypes.byref(request), pointer(found), found.size)
        return found
