from __future__ import annotations

import numpy as np
import pytest

from mtlbench.errors import UsageError
from mtlbench.tasks._faces import ATTRIBUTES, Look, attributes_of, draw_attributes, face, portrait

# Shares of CelebA's 202,599 images, in percent.
SHARES = (
    "11.1 26.7 51.3 20.5 2.2 15.2 24.1 23.5 23.9 14.8 5.1 20.5 14.2 5.8 4.7 6.5 6.3 4.2 38.7 45.5 "
    "41.7 48.3 4.2 11.5 83.5 28.4 4.3 27.7 8.0 6.6 5.7 48.2 20.8 32.0 18.9 4.8 47.2 12.3 7.3 77.4"
)
RATES = dict(zip(ATTRIBUTES, map(float, SHARES.split()), strict=True))
UNSEEN = {"Attractive"}
EXCLUSIVE = (
    {"Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"},
    {"Straight_Hair", "Wavy_Hair", "Bald"},
    {"Bangs", "Receding_Hairline", "Bald"},
)


def test_attributes_are_celebas() -> None:
    assert len(ATTRIBUTES) == len(set(ATTRIBUTES)) == 40
    assert list(ATTRIBUTES) == sorted(ATTRIBUTES)
    assert (ATTRIBUTES[0], ATTRIBUTES[20], ATTRIBUTES[39]) == ("5_o_Clock_Shadow", "Male", "Young")


def test_rates_are_about_celebas() -> None:
    people = [draw_attributes(np.random.default_rng(i)) for i in range(3000)]
    for name, real in RATES.items():
        share = 100 * np.mean([name in has for has in people])
        assert abs(share - real) < max(1.6, 0.2 * real), name
    assert all(len(has & names) < 2 for has in people for names in EXCLUSIVE)
    assert all("No_Beard" not in has for has in people if has & {"Goatee", "Mustache"})


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_is_to_be_seen(name: str) -> None:
    """Turned on and off in one face, all else being equal."""
    seen = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        others = set().union(*(names for names in EXCLUSIVE if name in names))
        has = draw_attributes(rng) - others - {"Blurry", "Wearing_Hat", "Bald", "Male"}
        has |= {"Male"} if seed or name in {"5_o_Clock_Shadow", "Bald"} else set()
        look = Look.draw(rng)
        off, on = (portrait(h, look).astype(float) for h in (has - {name}, has | {name}))
        seen.append((np.abs(on - off).mean(2) > 20).sum())
    if name in UNSEEN:
        assert max(seen) == 0
    else:
        assert min(seen) >= 8  # of 4,096 pixels


def test_a_seed_is_a_face() -> None:
    first, has = face(5)
    again, same = face(5)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert has == same == attributes_of(5)
    assert not np.array_equal(first, face(6)[0])
    assert first.std() > 10


def test_the_size_does_not_change_the_face() -> None:
    for seed in (1, 2):
        (small, has), (large, same) = face(seed), face(seed, 128, 128)
        assert has == same
        halved = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(halved - small).mean() < 6


@pytest.mark.parametrize("size", [(16, 16), (218, 178), (17, 40)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    assert face(0, *size)[0].shape == (*size, 3)


@pytest.mark.parametrize("size", [(15, 64), (64, 0)])
def test_a_size_that_is_too_small(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=f"no face of {size[0]} x {size[1]} pixels"):
        face(0, *size)
