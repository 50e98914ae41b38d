"""The request for an ensemble, before it is resolved for a bundle."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fsae.runtime.arguments import check_judgement, date, of_kind, pairs, switch, text, texts, whole, whole_numbers
from fsae.runtime.errors import UsageError
from fsae.runtime.input.sources import Given
from fsae.runtime.output.selection import EVERYTHING, Selection

if TYPE_CHECKING:
    import xarray as xr


DEFAULT_MEMBERS, DEFAULT_STEPS = 100, 12


MOST_STEPS = 10_000_000  # all their dates are known before the first is drawn
MOST_MEMBERS = 10_000_000
SEVERAL_RUNS = "draw the others in a run of their own, as in --member-ids 10000000-19999999"
AS_MEMBERS = "give numbers and ranges, as in --member-ids 3,10-12"


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A description of an ensemble.

    `members`: how many, or their numbers from 0 on. A member depends on (seed, number, time, forcing, initial) alone.
    `start`: a date such as 2005-01, by default the beginning of the last training year, or the step after those of
    `initial`; with `steps`, by default 12, it says which steps, and so does `select.times` in place of both.
    `forcing`: a scenario of the bundle, a constant, a year, or a series over time (NetCDF, Zarr, CSV); by default the
    past of the steps, or their calendar year for a bundle without scenarios.
    `initial`: fields whose last steps, or those before `start`, every member continues; if they have several members,
    member m of the ensemble continues the one at place m modulo their number. `climatology` and `names` describe them,
    as in `Emulator.compress`, with `force` they may be far from any climatology, and with `strict` not as far as is
    warned of. `sampler`: "fast" is the distilled
    denoiser, if the bundle has one: several times cheaper and slightly worse (see its model card).
    `alone`: a single member without a dimension of its own, for a file a member.
    `select`: part and grid of the fields. `statistics`: instead of the members, some of their mean, std, min, max and
    quantiles such as q05; "quantiles" stands for q05, q25, q50, q75, q95.
    """

    members: int | Sequence[int] = DEFAULT_MEMBERS
    start: str | None = None
    steps: int | None = None
    seed: int = 0
    forcing: "float | str | os.PathLike[str] | xr.Dataset | None" = None
    initial: "Given | None" = None
    climatology: "str | os.PathLike[str] | xr.Dataset | None" = None
    names: Mapping[str, str] | None = None
    force: bool = False
    strict: bool = False
    sampler: str = "default"
    alone: bool = False
    select: Selection = EVERYTHING
    statistics: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._take_arguments()
        check_judgement(force=self.force, strict=self.strict)
        if self.initial is None and (self.climatology is not None or self.names):
            raise UsageError(
                "found a climatology or names of variables without a file that they are of", advice="give --initial"
            )
        if self.select.times is not None and (self.start is not None or self.steps is not None):
            raise UsageError("found --times and --start or --steps", advice="give one or the other")
        if isinstance(self.members, int) and self.members > MOST_MEMBERS:
            raise UsageError(f"found {self.members} members", f"{MOST_MEMBERS} at most", SEVERAL_RUNS)
        if not self.member_numbers or min(self.member_numbers) < 0 or self._twice():
            found = list(self.member_numbers)
            raise UsageError(f"found the members {found}", "one or more, 0 or above, none twice", AS_MEMBERS)
        if max(self.member_numbers) >= 2**63:
            raise UsageError(f"found the member {max(self.member_numbers)}", "numbers below 2**63", AS_MEMBERS)
        if self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise UsageError(f"found {self.steps} steps", f"1 to {MOST_STEPS}", f"leave it out for {DEFAULT_STEPS}")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"found the seed {self.seed}", "0 to 2**64 - 1", "leave it out for 0")
        if self.sampler not in ("default", "fast"):
            raise UsageError(f"found the sampler {self.sampler!r}", "'default' or 'fast'", "leave it out for 'default'")
        if self.alone and (len(self.member_numbers) != 1 or self.statistics):
            raise UsageError(
                f"found {len(self.member_numbers)} members{' and statistics of them' if self.statistics else ''}",
                "one member, which has no dimension of its own",
                "ask for members and statistics in one output",
            )

    @property
    def member_numbers(self) -> tuple[int, ...]:
        """Numbers of the members: 0 to N - 1 for a number N, or those given."""
        return tuple(range(self.members)) if isinstance(self.members, int) else tuple(self.members)

    def _take_arguments(self) -> None:
        """Bring the fields into their own types; UsageError for what is of another kind."""
        given, several = self.members, "a number of members, or their numbers"
        one = hasattr(type(given), "__index__") and not getattr(given, "ndim", 0)
        members = whole("members", given, several) if one else whole_numbers("members", given, several, "[0, 3, 5]")
        found: dict[str, object] = {
            "members": members,
            "start": None if self.start is None else date("start", self.start),
            "steps": None if self.steps is None else whole("steps", self.steps),
            "seed": whole("seed", self.seed),
            "names": None if self.names is None else pairs("names", self.names),
            "force": switch("force", self.force),
            "strict": switch("strict", self.strict),
            "alone": switch("alone", self.alone),
            "sampler": text("sampler", self.sampler, "'default' or 'fast'", "'fast'"),
            "select": of_kind("select", self.select, Selection, "a Selection", "Selection(grid='1.5')"),
            "statistics": texts("statistics", self.statistics, "['mean', 'q95']"),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def _twice(self) -> bool:
        return len(set(self.member_numbers)) != len(self.member_numbers)


def member_ids(text: str) -> tuple[int, ...]:
    """Member numbers of a list of numbers and ranges.

    >>> member_ids("3,10-12")
    (3, 10, 11, 12)
    """
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*([0-9]{1,19})(?:-([0-9]{1,19}))?\s*", part)
        members = range(0) if ends is None else range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        if not members:
            raise UsageError(f"found the members {text!r}", "numbers and rising ranges", AS_MEMBERS)
        if members.stop - members.start + len(found) > MOST_MEMBERS:
            raise UsageError(f"found the members {text!r}", f"{MOST_MEMBERS} at most", SEVERAL_RUNS)
        found += members
    return tuple(found)
