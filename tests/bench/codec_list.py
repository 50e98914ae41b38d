"""The codecs that are compared, by name: each makes itself for a subject, or says why it cannot."""

from classical_codecs import jpeg2000, rounded_bits, sperr, sz3, zfp
from codec_kinds import Maker
from linear_codecs import quantised_eof, quantised_klt
from own_codecs import fsae

CODECS: dict[str, Maker] = {
    "fsae": fsae,
    "ZFP": zfp,
    "rounded bits + zstd": rounded_bits,
    "SZ3": sz3,
    "SPERR": sperr,
    "JPEG 2000": jpeg2000,
    "EOF": quantised_eof,
    "two-stage KLT": quantised_klt,
}
