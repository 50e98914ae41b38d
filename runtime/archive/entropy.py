"""Entropy coding of symbols with integer tables: a range coder, and for each symbol the class of its deviation.

The class is known before the symbol: it follows from the tables, the step and a few corrections that the chunk holds.
Classes lie a quarter of an octave apart; the symbols of one class have the frequencies of the tables. Symbols beyond
them are written apart; below the lowest class all symbols are zero and are not written.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import Ints
from fsae.runtime.errors import DataError

from .tables import CLASSES, ESCAPE, FREQUENCIES, LARGEST, LOWEST, PER_CLASS, CodecTables

CORRECTIONS = np.arange(-4, 13)  # of the deviations of a group, in classes
CORRECTION_FREQUENCY = 2.0 ** -np.abs(np.arange(-4, 13)) + np.where(CORRECTIONS == 0, 6.0, 0.0)  # exact in float64
DEAD = -1  # class of coefficients that are zero without a word


@dataclass(frozen=True, kw_only=True)
class Coded:
    """Symbols of a chunk as words of the range coder, and those beyond the tables."""

    words: NDArray[np.uint32]
    escapes: NDArray[np.int32]  # in the order of the coder

    def __len__(self) -> int:
        """Bytes before the escapes are packed."""
        return self.words.nbytes + self.escapes.nbytes


def deviations(tables: CodecTables, steps: int) -> Ints:
    """Log2 of the standard deviation (frequency, coefficient) in parts of an octave, in the unit of the variable."""
    columns = np.arange(steps) * FREQUENCIES // steps
    row = tables.persistence[tables.entries]
    return tables.deviation[tables.entries].astype(np.int32) + tables.spectrum[:, columns].T[:, row]


def classify(tables: CodecTables, deviation: Ints, corrections: Ints, step_exponent: int) -> NDArray[np.int8]:
    """Class (frequency, coefficient) of each symbol for a step of 2**(step_exponent / OCTAVE); DEAD below them all."""
    return classes_of(deviation, corrections[tables.groups], step_exponent)


def classes_of(deviation: Ints, corrections: Ints, step_exponent: int) -> NDArray[np.int8]:
    """Classes of deviations with their corrections, which broadcast against each other."""
    found = (deviation - (step_exponent + LOWEST)) // PER_CLASS + corrections
    classes: NDArray[np.int8] = np.clip(found, DEAD, CLASSES - 1).astype(np.int8)
    return classes


def _model(frequency: NDArray[Any]) -> Any:
    import constriction  # start-up time

    return constriction.stream.model.Categorical(frequency.astype(np.float64), perfect=False)


def encode(tables: CodecTables, symbols: NDArray[np.int32], classes: NDArray[np.int8], corrections: Ints) -> Coded:
    """Words of the range coder for the corrections, and for the symbols class by class in the order of the array."""
    import constriction

    coder = constriction.stream.queue.RangeEncoder()
    coder.encode((corrections - CORRECTIONS[0]).astype(np.int32), _model(CORRECTION_FREQUENCY))
    escapes: list[NDArray[np.int32]] = []
    flat, order, ends = symbols.ravel(), *_by_class(classes)
    for kind in range(CLASSES):
        values = flat[order[ends[kind] : ends[kind + 1]]]
        if values.size:
            far = np.abs(values) > LARGEST
            escapes.append(values[far])
            coder.encode(np.where(far, ESCAPE, values + LARGEST).astype(np.int32), _model(tables.frequency[kind]))
    words = coder.get_compressed().astype("<u4")
    return Coded(words=words, escapes=np.concatenate(escapes or [np.zeros(0, np.int32)]).astype("<i4"))


def _by_class(classes: NDArray[np.int8]) -> tuple[Ints, Ints]:
    """Places of the array in the order of their classes, and where each class ends; the dead ones come first."""
    flat = classes.ravel()
    counts = np.bincount(flat.astype(np.int64) + 1, minlength=CLASSES + 1)
    return np.argsort(flat, kind="stable"), np.cumsum(counts)


class Decoder:
    """The reader of a chunk's words, in the order in which `encode` wrote them.

    DataError where the words are not those of a chunk.
    """

    def __init__(self, words: NDArray[np.uint32]) -> None:
        """`words` of one chunk."""
        import constriction

        self._coder = constriction.stream.queue.RangeDecoder(words.astype(np.uint32))

    def corrections(self, groups: int) -> Ints:
        """Corrections (group)."""
        found: Ints = self._read(CORRECTION_FREQUENCY, groups).astype(np.int64) + CORRECTIONS[0]
        return found

    def symbols(self, tables: CodecTables, classes: NDArray[np.int8], escapes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Symbols (frequency, coefficient) of these classes."""
        flat = np.zeros(classes.size, dtype=np.int32)
        order, ends = _by_class(classes)
        taken = 0
        for kind in range(CLASSES):
            place = order[ends[kind] : ends[kind + 1]]
            if not place.size:
                continue
            values = self._read(tables.frequency[kind], place.size)
            far = values == ESCAPE
            count = int(far.sum())
            if taken + count > len(escapes):
                raise DataError("found a damaged chunk of the archive codec", advice="take another copy of the file")
            values -= LARGEST
            values[far] = escapes[taken : taken + count]
            taken += count
            flat[place] = values
        return flat.reshape(classes.shape)

    def _read(self, frequency: NDArray[Any], count: int) -> NDArray[np.int32]:
        try:
            read: NDArray[np.int32] = self._coder.decode(_model(frequency), count)
        except (ValueError, AssertionError) as error:  # words that no encoder writes
            raise DataError(
                f"found a damaged chunk of the archive codec ({error})", advice="take another copy of the file"
            ) from None
        return read
