"""CelebA's attributes, and who has which."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.random import Generator

ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
"""In the order of CelebA's files."""

MEN, YOUNG_MEN, YOUNG_WOMEN = 0.417, 0.65, 0.86

RATES: Mapping[str, tuple[float, float]] = {
    "Arched_Eyebrows": (0.07, 0.41),
    "Bags_Under_Eyes": (0.32, 0.1),
    "Bangs": (0.11, 0.22),
    "Big_Lips": (0.17, 0.29),
    "Big_Nose": (0.42, 0.1),
    "Blurry": (0.06, 0.045),
    "Bushy_Eyebrows": (0.26, 0.06),
    "Chubby": (0.09, 0.015),
    "Double_Chin": (0.07, 0.012),
    "Eyeglasses": (0.1, 0.02),
    "Heavy_Makeup": (0.003, 0.68),
    "High_Cheekbones": (0.22, 0.42),
    "Mouth_Slightly_Open": (0.34, 0.42),
    "Narrow_Eyes": (0.13, 0.1),
    "Oval_Face": (0.2, 0.34),
    "Pale_Skin": (0.03, 0.056),
    "Pointy_Nose": (0.18, 0.35),
    "Rosy_Cheeks": (0.005, 0.11),
    "Smiling": (0.4, 0.54),
    "Wearing_Earrings": (0.02, 0.31),
    "Wearing_Hat": (0.08, 0.03),
    "Wearing_Necklace": (0.02, 0.2),
    "Wearing_Necktie": (0.17, 0.003),
}
"""Probabilities among men and among women, of what depends on little else."""

OF_AGE: Mapping[str, float] = {
    "Bags_Under_Eyes": 1.6,
    "Bangs": 0.6,
    "Chubby": 2.0,
    "Double_Chin": 2.5,
    "Eyeglasses": 2.0,
    "Heavy_Makeup": 0.6,
}
"""Factors on the rates of those who are not young."""

APPEAL: Mapping[str, float] = {
    "Young": 0.9,
    "Heavy_Makeup": 1.0,
    "Oval_Face": 0.4,
    "Bald": -0.5,
    "Bags_Under_Eyes": -0.6,
    "Eyeglasses": -0.8,
    "Big_Nose": -0.8,
    "Chubby": -1.2,
}


def draw_attributes(rng: Generator) -> frozenset[str]:
    """The attributes of a person, at about CelebA's rates and with its plainest correlations."""
    has: set[str] = set()

    def draw(name: str, probability: float) -> bool:
        found = rng.random() < probability
        if found:
            has.add(name)
        return found

    man = draw("Male", MEN)
    young = draw("Young", YOUNG_MEN if man else YOUNG_WOMEN)
    for name, rates in RATES.items():
        draw(name, rates[not man] * (1 if young else OF_AGE.get(name, 1)))
    if "Smiling" in has:
        draw("High_Cheekbones", 0.4)
        draw("Mouth_Slightly_Open", 0.35)
    draw("Wearing_Lipstick", 0.97 if "Heavy_Makeup" in has else 0.01 if man else 0.45)
    _draw_hair(rng, has, man, young)
    if man:
        goatee = draw("Goatee", 0.15)
        draw("Mustache", 0.4 if goatee else 0.05)
        draw("Sideburns", 0.4 if goatee else 0.09)
        draw("5_o_Clock_Shadow", 0.12 if goatee else 0.29)
    stubble = 0.2 if "5_o_Clock_Shadow" in has else 1.0
    draw("No_Beard", 0.0 if has & {"Goatee", "Mustache"} else stubble)
    appeal = sum(value for name, value in APPEAL.items() if name in has)
    draw("Attractive", 1 / (1 + np.exp(3.9 + 2.4 * (man and not young) - 5 * appeal)))
    return frozenset(has)


def _draw_hair(rng: Generator, has: set[str], man: bool, young: bool) -> None:
    """One colour, or one without a name; straight, wavy or neither; where it begins."""
    old_colours = {"Gray_Hair": 0.25 if man else 0.1, "Bald": 0.09 if man else 0.0}
    colours = {"Bald": 0.04 if man else 0.0} if young else old_colours
    colours |= {"Black_Hair": 0.245, "Blond_Hair": 0.05 if man else 0.24, "Brown_Hair": 0.21}
    index = int(np.searchsorted(np.cumsum(list(colours.values())), rng.random(), "right"))
    if index < len(colours):
        has.add(list(colours)[index])
    if "Bald" in has:
        has.discard("Bangs")
        return
    form = rng.random()
    wavy, straight = (0.14, 0.26) if man else (0.45, 0.18)
    if form < wavy + straight:
        has.add("Wavy_Hair" if form < wavy else "Straight_Hair")
    if "Bangs" not in has and rng.random() < ((0.1 if young else 0.3) if man else 0.045):
        has.add("Receding_Hairline")
