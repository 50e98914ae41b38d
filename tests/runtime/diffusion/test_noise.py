"""Noise of a member: Philox4x64-10 written out in plain Python as oracle, golden numbers, and independence."""

import math

import numpy as np
import pytest

from fsae.runtime.diffusion.noise import member_integers, standard_normal

MASK = 2**64 - 1
ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)  # Salmon et al. 2011, table 2
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
# seed 0, member 37, time index 24000 (January 2000 in months), draw 0
GOLDEN_INTEGERS = [13609017803979639767, 8722663892613705126, 10305852336881893162, 5267315995912100918]
GOLDEN_NORMALS = [-0.7686272, 0.1323732, -0.23897108, 1.052257]


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Four integers of Philox4x64-10 for one counter and key, straight from Salmon et al. 2011, section 4.3."""
    c, k = list(counter), list(key)
    for _ in range(ROUNDS):
        high0, low0 = divmod(MULTIPLIERS[0] * c[0], 2**64)
        high1, low1 = divmod(MULTIPLIERS[1] * c[2], 2**64)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + WEYL[0]) & MASK, (k[1] + WEYL[1]) & MASK]
    return c


def expected_integers(seed: int, member: int, time_index: int, draw: int, count: int) -> list[int]:
    """The noise formula: blocks count from 1, counter (block, draw, time, 0), key (seed, member)."""
    blocks = range(1, 2 + count // 4)
    words = [[block, draw & MASK, time_index & MASK, 0] for block in blocks]
    return [value for word in words for value in philox(word, [seed & MASK, member & MASK])][:count]


def member_noise(seed: int, member: int, time_index: int, draw: int, count: int) -> np.ndarray:
    """Standard normal numbers of a member, an even number of them."""
    return standard_normal(member_integers(seed, member, time_index, draw, count))


def test_the_oracle_gives_the_published_numbers() -> None:
    # oracle: known-answer test of Random123, philox4x64 with 10 rounds, zero counter and key
    assert philox([0, 0, 0, 0], [0, 0]) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


@pytest.mark.parametrize(
    "place",
    [(0, 0, 0, 0), (0, 37, 24000, 0), (12345, 99, 23999, 3), (2**63 + 7, 2**40, -11, 1), (-1, 0, 0, 0)],
)
def test_integers_are_philox_bitwise(place: tuple[int, int, int, int]) -> None:  # oracle: philox above
    assert member_integers(*place, 11).tolist() == expected_integers(*place, 11)


def test_golden_numbers() -> None:
    # oracle: frozen; a change here changes every ensemble ever promised
    assert member_integers(0, 37, 24000, 0, 4).tolist() == GOLDEN_INTEGERS
    found = member_noise(0, 37, 24000, 0, 4)
    np.testing.assert_array_max_ulp(found, np.array(GOLDEN_NORMALS, dtype=np.float32), maxulp=2)  # libm may differ


def test_normals_are_box_muller_of_the_integers() -> None:  # oracle: the formula with math, number by number
    raw = member_integers(3, 1, 7, 0, 6).tolist()
    expected = []
    for a, b in zip(raw[::2], raw[1::2], strict=True):
        radius = math.sqrt(-2 * math.log(((a >> 11) + 1) / 2**53))
        angle = 2 * math.pi * ((b >> 11) + 1) / 2**53
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    found = member_noise(3, 1, 7, 0, 6)
    np.testing.assert_array_max_ulp(found, np.array(expected, dtype=np.float32), maxulp=2)


def test_a_longer_draw_starts_with_the_shorter_one() -> None:  # oracle: counter-based numbers
    np.testing.assert_array_equal(member_noise(5, 2, 100, 0, 10), member_noise(5, 2, 100, 0, 50)[:10])


def test_seed_member_time_and_draw_all_matter() -> None:  # oracle: independent streams do not correlate
    streams = [
        member_noise(*place, 4096) for place in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    ]
    correlation = np.corrcoef(np.stack(streams).astype(np.float64))
    assert np.abs(correlation - np.eye(5)).max() < 5 / math.sqrt(4096)


def test_distribution_is_standard_normal() -> None:  # oracle: moments of N(0, 1), six standard errors
    values = np.concatenate([member_noise(0, m, 0, 0, 50_000) for m in range(4)]).astype(np.float64)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((values**power).mean() - moment) < 6 * math.sqrt(variance / values.size)
