"""What a bundle has learned of the training fields of a variable, and limits for others: a part of the manifest."""

from collections import Counter

from msgspec import UNSET, UnsetType

from .records import NotNegative, Positive, Record, Zoom, check


class Limits(Record, frozen=True, kw_only=True):
    """A figure of training fields: the median, what 99 % stay below, and above which fields are warned of."""

    median: NotNegative
    q99: NotNegative
    warn_above: Positive

    def __post_init__(self) -> None:
        rising = [self.median, self.q99, self.warn_above]
        check(rising == sorted(rising), f"the limits are {rising}, expected rising ones")


class RoundTrip(Record, frozen=True, kw_only=True):
    """How training fields of `zoom` come back from encoder and decoder (round_trip.py).

    `error` is the RMS difference of the transformed variable, in its units; `latent` the RMS of latents, dimensionless.
    """

    zoom: Zoom
    error: Limits
    latent: Limits


class Plausible(Record, frozen=True, kw_only=True):
    """How far the training fields of a variable are from its climatology, and limits for others (plausibility.py).

    The median, and the distance that 99 % of them stay below. In units of the transformed variable. `roughness` is
    what the latents of 99 % of them stay below (edited.py), dimensionless. `round_trips` are of the zooms that input
    may have, each at most once.
    """

    median: NotNegative
    q99: Positive
    warn_above: Positive
    refuse_above: Positive
    roughness: Positive | UnsetType = UNSET  # unset in older bundles
    round_trips: tuple[RoundTrip, ...] | UnsetType = UNSET  # unset in older bundles

    def __post_init__(self) -> None:
        rising = [self.median, self.q99, self.warn_above, self.refuse_above]
        check(rising == sorted(rising), f"the distances of plausible are {rising}, expected rising ones")
        for zoom, count in Counter(one.zoom for one in self.round_trips or ()).items():
            check(count == 1, f"round_trips has {count} entries of zoom {zoom}, expected one")

    def round_trip(self, zoom: int) -> RoundTrip | None:
        """The entry of fields of a zoom, None if the bundle has learned none."""
        return next((one for one in self.round_trips or () if one.zoom == zoom), None)
