"""Faces: a stand-in for CelebA with its forty attributes."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from mtlbench.errors import UsageError
from mtlbench.tasks._faces.attributes import ATTRIBUTES, draw_attributes
from mtlbench.tasks._faces.canvas import Array, Canvas

Colour = NDArray[np.float64]

LEAST = 16
SIDES = (-1, 1)
EYE, EYE_HEIGHT, BROW_HEIGHT, NOSE, MOUTH = 0.19, -0.05, -0.21, 0.18, 0.385
"""Where things are: the eyes' distance from the middle; the others' height."""

SKINS = np.array(
    [
        [0.94, 0.79, 0.69],
        [0.87, 0.67, 0.53],
        [0.77, 0.55, 0.41],
        [0.59, 0.41, 0.29],
        [0.4, 0.27, 0.19],
    ]
)
SKIN_RATES = (0.3, 0.3, 0.2, 0.12, 0.08)
PALE = np.array([1.0, 0.96, 0.94])
IRISES = np.array([[0.3, 0.5, 0.75], [0.35, 0.22, 0.1], [0.3, 0.5, 0.3], [0.15, 0.1, 0.08]])
HAIR = {
    "Black_Hair": np.array([0.06, 0.05, 0.07]),
    "Blond_Hair": np.array([0.9, 0.72, 0.36]),
    "Brown_Hair": np.array([0.36, 0.21, 0.1]),
    "Gray_Hair": np.array([0.72, 0.73, 0.76]),
}
AUBURN = np.array([0.62, 0.26, 0.1])

BY_DEGREES = frozenset(
    {
        "Arched_Eyebrows",
        "Big_Lips",
        "Big_Nose",
        "Bushy_Eyebrows",
        "Chubby",
        "High_Cheekbones",
        "Narrow_Eyes",
        "Oval_Face",
        "Pointy_Nose",
        "Smiling",
    }
)
"""Who does not have one of these has a little of it."""


@dataclass(frozen=True)
class Look:
    """What a picture shows besides the attributes.

    Args:
        turn: of the face, in radians.
        scale: of it.
        shift: of it.
        degrees: how much there is of each attribute, 0 to 1 within its range.
        tones: any other numbers from 0 to 1.
        skin: index of its colour.
        iris: likewise.
        noise: seed of the grain.
    """

    turn: float
    scale: float
    shift: tuple[float, float]
    degrees: NDArray[np.float64]
    tones: NDArray[np.float64]
    skin: int
    iris: int
    noise: int

    @classmethod
    def draw(cls, rng: Generator) -> Look:
        """A random one."""
        return cls(
            turn=rng.uniform(-0.08, 0.08),
            scale=rng.uniform(1.08, 1.2),
            shift=(rng.uniform(-0.03, 0.03), rng.uniform(-0.08, -0.02)),
            degrees=rng.random(len(ATTRIBUTES)),
            tones=rng.random(32),
            skin=int(rng.choice(len(SKINS), p=SKIN_RATES)),
            iris=int(rng.integers(len(IRISES))),
            noise=int(rng.integers(2**31)),
        )


def face(seed: int, height: int = 64, width: int = 64) -> tuple[NDArray[np.uint8], frozenset[str]]:
    """A face and its attributes; the same seed shows the same face at any size."""
    has, (_, look) = attributes_of(seed), _streams(seed)
    return portrait(has, Look.draw(look), height, width), has


def attributes_of(seed: int) -> frozenset[str]:
    """The attributes of :func:`face`."""
    return draw_attributes(_streams(seed)[0])


def _streams(seed: int) -> list[Generator]:
    """Random numbers of the attributes, and of all else."""
    return [np.random.default_rng(s) for s in SeedSequence([seed, 0]).spawn(2)]


def portrait(has: Set[str], look: Look, height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    """Paint a face.

    Args:
        has: its attributes.
        look: all else.
        height: of the picture in pixels.
        width: likewise.

    Raises:
        UsageError: a side is shorter than 16 pixels.
    """
    if min(height, width) < LEAST:
        raise UsageError(f"no face of {height} x {width} pixels: each side takes at least {LEAST}")
    return _Painter(has, look, Canvas(height, width, look.turn, look.scale, look.shift)).picture()


class _Painter:
    """Paints from the back to the front."""

    def __init__(self, has: Set[str], look: Look, canvas: Canvas) -> None:
        self.has, self.look, self.canvas = has, look, canvas
        self.man = "Male" in has
        pale = self.amount("Pale_Skin")
        skin = SKINS[look.skin] * self.tone(0, 0.94, 1.04)
        self.skin: Colour = skin + pale * (PALE - skin)
        named = [colour for name, colour in HAIR.items() if name in has]
        self.hair: Colour = (named or [AUBURN])[0] * self.tone(1, 0.7, 1.2)
        chubby, oval = self.amount("Chubby"), self.amount("Oval_Face")
        self.width = 0.42 + 0.13 * chubby - 0.08 * oval + 0.02 * self.man
        self.height = 0.53 + 0.1 * oval - 0.03 * chubby
        wave = 0.045 * np.sin(15 * canvas.y + self.tone(2, 0, 6))
        self.wave = wave if "Wavy_Hair" in has else 0.0
        bright = self._strands()[..., None]
        self.strands = self.hair * (1 + bright) + 0.2 * bright
        radius = 2.0 + 0.7 * (1 - oval)
        jaw = 0.08 * self.man * np.clip(canvas.y - 0.1, 0, 1)
        across = np.abs(canvas.x) / (self.width + jaw)
        down = np.abs(canvas.y - 0.05) / self.height
        distance = ((across**radius + down**radius) ** (1 / radius) - 1) * self.width
        self.face = canvas.inside(distance)

    def amount(self, name: str) -> float:
        """How much there is of an attribute: 0.6 to 1 if the face has it; if not nothing, or up to
        0.3 if it comes by degrees."""
        degree = float(self.look.degrees[ATTRIBUTES.index(name)])
        if name in self.has:
            return 0.6 + 0.4 * degree
        return 0.3 * degree if name in BY_DEGREES else 0.0

    def tone(self, i: int, low: float, high: float) -> float:
        """The i-th number of the look, brought to a range."""
        return low + (high - low) * float(self.look.tones[i])

    def colour(self, i: int, low: float = 0.0, high: float = 1.0) -> Colour:
        """The colour that begins with the i-th number of the look."""
        return np.asarray(low + (high - low) * self.look.tones[i : i + 3])

    def _strands(self) -> Array:
        """How much brighter the hair is: streaks if it is straight, waves if it is wavy."""
        x, y, start = self.canvas.x, self.canvas.y, self.tone(3, 0, 6)
        if "Straight_Hair" in self.has:
            bright = 0.55 * np.sin(42 * x + start)
        elif "Wavy_Hair" in self.has:
            bright = 0.5 * np.sin(16 * x + 5 * np.sin(11 * y + start))
        else:
            bright = 0.06 * np.sin(18 * x + start)
        return np.asarray(bright, np.float32)

    def picture(self) -> NDArray[np.uint8]:
        """The whole."""
        canvas, has = self.canvas, self.has
        slope = self.tone(4, -0.2, 0.2) * canvas.across + self.tone(5, -0.2, 0.2) * canvas.down
        canvas.image[:] = self.colour(6, 0.1, 0.95) + slope[..., None]
        if "Bald" not in has and self.tone(30, 0, 1) < (0.1 if self.man else 0.8):
            self._long_hair()
        self._body()
        self._head()
        self._skin_marks()
        for side in SIDES:
            self._eye(side)
        self._nose()
        self._beard()
        self._mouth()
        if "Bald" in has:
            canvas.paint(canvas.glow(0.05, -0.36, 0.2), (1, 1, 1), 0.85)
        else:
            self._hair()
        if "Eyeglasses" in has:
            self._glasses()
        if "Wearing_Hat" in has:
            self._hat()
        canvas.image *= self.tone(9, 0.82, 1.1)
        height, width = canvas.size
        grain = np.random.default_rng(self.look.noise).normal(0, 0.015, (height, width, 3))
        blur = 0.012 + 0.012 * self.amount("Blurry") if "Blurry" in has else 0.0
        return canvas.finish(blur, grain.astype(np.float32))

    def _long_hair(self) -> None:
        canvas, w = self.canvas, self.width
        length = self.tone(10, 0.45, 1.0)
        sides = np.abs(canvas.x) - (w + 0.15 + 0.04 * (canvas.y > 0) + self.wave)
        fall = np.maximum(sides, np.maximum(-(canvas.y + 0.1), canvas.y - length))
        crown = canvas.ellipse(0, -0.15, w + 0.16, 0.64) + self.wave
        canvas.paint(canvas.inside(np.minimum(fall, crown)), self.strands)

    def _body(self) -> None:
        canvas, x, y = self.canvas, self.canvas.x, self.canvas.y
        if "Bald" not in self.has:
            crown = canvas.ellipse(0, -0.16, self.width + 0.08, 0.55) + self.wave
            canvas.paint(canvas.inside(crown), self.strands)
        neck = np.maximum(np.abs(x) - 0.19 - 0.03 * self.man, -(y - 0.3))
        canvas.paint(canvas.inside(neck), self.skin * 0.82)
        shoulders = canvas.ellipse(0, 1.14, 0.85 + 0.05 * self.man, 0.42)
        canvas.paint(canvas.inside(shoulders), self.colour(11))
        if "Wearing_Necktie" in self.has:
            collar = np.maximum(np.abs(x) - 0.26 + 0.5 * (y - 0.72), 0.68 - y)
            canvas.paint(canvas.inside(collar), (0.97, 0.97, 0.97))
            tie = np.maximum(np.abs(x) - 0.08 - 0.06 * (y - 0.7), 0.7 - y)
            canvas.paint(canvas.inside(tie), self.colour(14, 0.0, 0.6))
        if "Wearing_Necklace" in self.has:
            chain = np.abs(canvas.ellipse(0, 0.6, 0.27, 0.24)) - 0.03
            beads = 0.75 + 0.25 * np.sin(45 * x)
            gold = np.array([1.0, 0.9, 0.35]) * beads[..., None]
            canvas.paint(canvas.inside(chain) * (y > 0.6), gold)

    def _head(self) -> None:
        canvas, has = self.canvas, self.has
        for side in SIDES:
            ear = side * (self.width + 0.01)
            canvas.paint(canvas.inside(canvas.ellipse(ear, 0.05, 0.06, 0.11)), self.skin * 0.9)
            if "Wearing_Earrings" in has:
                metal = (1.0, 0.85, 0.25) if self.tone(17, 0, 1) < 0.6 else (0.88, 0.95, 1.0)
                ring = canvas.ellipse(side * (self.width + 0.04), 0.24, 0.055, 0.085)
                canvas.paint(canvas.inside(ring - 0.015), (0.1, 0.1, 0.1), 0.6)
                canvas.paint(canvas.inside(ring), metal)
        if "Double_Chin" in has:
            fold = canvas.ellipse(0, 0.48, 0.42, 0.32)
            canvas.paint(canvas.inside(fold - 0.02) * (canvas.y > 0.3), self.skin * 0.4)
            canvas.paint(canvas.inside(fold + 0.015) * (canvas.y > 0.3), self.skin * 0.94)
            rim = canvas.arc(0, 0.66, 0.26, -0.1, 0.026)
            canvas.paint(self.face, self.skin)
            canvas.paint(canvas.inside(rim), self.skin * 0.4)
        else:
            canvas.paint(self.face, self.skin)
        shade = np.clip(canvas.x * self.tone(18, -1, 1) + 0.2, 0, 0.3)
        canvas.paint(self.face * shade, self.skin * 0.75)

    def _skin_marks(self) -> None:
        canvas, x, y = self.canvas, self.canvas.x, self.canvas.y
        high = self.amount("High_Cheekbones")
        for side in SIDES:
            out = side * x
            hollow = np.abs(y - 0.24 + 0.5 * (out - 0.29)) - 0.022
            where = canvas.inside(hollow) * (np.abs(out - 0.29) < 0.12) * self.face
            canvas.paint(where, self.skin * 0.6, high)
            canvas.paint(canvas.glow(side * 0.29, 0.11, 0.085) * self.face, (1, 1, 1), 0.5 * high)
        if "Rosy_Cheeks" in self.has:
            for side in SIDES:
                glow = canvas.glow(side * 0.27, 0.21, 0.12) * self.face
                canvas.paint(glow, (0.96, 0.3, 0.36), 0.7 * self.amount("Rosy_Cheeks"))
        if "Young" not in self.has:
            strong = self.amount("Young") + 0.85
            for k in range(3):
                line = canvas.arc(0, -0.38 + 0.075 * k, 0.23, 0.02, 0.015)
                canvas.paint(canvas.inside(line) * self.face, self.skin * 0.5, strong)
            for side in SIDES:
                fold = np.abs(side * x - 0.16 - 0.3 * (y - 0.2)) - 0.018
                where = canvas.inside(fold) * (y > 0.18) * (y < 0.42) * self.face
                canvas.paint(where, self.skin * 0.5, strong)
        if "5_o_Clock_Shadow" in self.has:
            grain = np.random.default_rng(self.look.noise).random(x.shape)
            jaw = np.clip((y - 0.2) * 6, 0, 1) * (0.6 + 0.4 * grain) * self.face
            stubble = 0.5 * self.skin * np.array([0.8, 0.95, 1.1])
            canvas.paint(jaw, stubble, 0.75 * self.amount("5_o_Clock_Shadow"))

    def _eye(self, side: int) -> None:
        canvas, x = self.canvas, side * EYE
        height = 0.075 - 0.055 * self.amount("Narrow_Eyes")
        ball = canvas.ellipse(x, EYE_HEIGHT, 0.105, height)
        made_up = "Heavy_Makeup" in self.has
        if made_up:
            shadow = canvas.ellipse(x, EYE_HEIGHT - 0.05, 0.15, 0.09)
            lid = self.colour(19, 0.15, 0.6) * np.array([0.95, 0.5, 1.1])
            canvas.paint(canvas.inside(shadow), lid, 0.7 * self.amount("Heavy_Makeup"))
        if "Bags_Under_Eyes" in self.has:
            strong = self.amount("Bags_Under_Eyes")
            bag = canvas.ellipse(x, EYE_HEIGHT + 0.1, 0.105, 0.05)
            canvas.paint(canvas.inside(bag), self.skin * 0.62, 0.8 * strong)
            rim = canvas.arc(x, EYE_HEIGHT + 0.155, 0.1, -0.04, 0.016)
            canvas.paint(canvas.inside(rim), self.skin * 0.5, strong)
        canvas.paint(canvas.inside(ball), (1, 1, 1))
        eye, gaze = canvas.inside(ball), x + self.tone(22, -0.02, 0.02)
        iris = canvas.inside(canvas.ellipse(gaze, EYE_HEIGHT, 0.05, 0.05)) * eye
        canvas.paint(iris, IRISES[self.look.iris])
        pupil = canvas.inside(canvas.ellipse(gaze, EYE_HEIGHT, 0.024, 0.024)) * eye
        canvas.paint(pupil, (0.03, 0.03, 0.03))
        lashes = canvas.arc(x, EYE_HEIGHT - height, 0.11, 0.04, 0.012 + 0.008 * made_up)
        canvas.paint(canvas.inside(lashes), (0.08, 0.05, 0.05))
        arched = self.amount("Arched_Eyebrows")
        thick = 0.012 + 0.05 * self.amount("Bushy_Eyebrows")
        bend = 0.005 + 0.155 * arched
        brow = canvas.arc(x, BROW_HEIGHT - 0.05 * arched, 0.125, bend, thick)
        dark = 0.75 if "Blond_Hair" in self.has else 0.55
        canvas.paint(canvas.inside(brow), self.hair * dark)

    def _nose(self) -> None:
        canvas, x, y = self.canvas, self.canvas.x, self.canvas.y
        big, pointed = self.amount("Big_Nose"), self.amount("Pointy_Nose")
        wide = 0.045 + 0.135 * big
        low = NOSE + 0.02 * big
        tip = canvas.ellipse(0, low, wide, 0.045 + 0.045 * big)
        canvas.paint(canvas.inside(tip), self.skin * (0.85 - 0.12 * big))
        ridge = np.maximum(np.abs(x) - 0.028, np.abs(y - 0.06) - 0.12)
        canvas.paint(canvas.inside(ridge), np.minimum(self.skin * 1.06, 1))
        wedge = np.maximum(np.abs(x) - (0.27 - y) * 0.4, np.maximum(y - 0.27, -0.04 - y))
        canvas.paint(canvas.inside(wedge - 0.026), self.skin * 0.4, pointed)
        canvas.paint(canvas.inside(wedge), np.minimum(self.skin * 1.2, 1), pointed)
        for side in SIDES:
            nostril = canvas.ellipse(side * wide * 0.55, low + 0.03, 0.02, 0.015)
            canvas.paint(canvas.inside(nostril), self.skin * 0.4)

    def _beard(self) -> None:
        canvas, has = self.canvas, self.has
        colour = self.strands * 0.85
        if "No_Beard" not in has:
            jaw = np.clip((canvas.y - 0.16) * 9, 0, 1) * (np.abs(canvas.x) > 0.24) * self.face
            canvas.paint(jaw, colour, 0.55)
        if "Sideburns" in has:
            for side in SIDES:
                strip = np.abs(canvas.x - side * (self.width - 0.05)) - 0.065
                strip = np.maximum(strip, np.abs(canvas.y - 0.1) - 0.24)
                canvas.paint(canvas.inside(strip) * self.face, colour)
        if "Mustache" in has:
            canvas.paint(canvas.inside(canvas.arc(0, MOUTH - 0.105, 0.21, 0.05, 0.045)), colour)
        if "Goatee" in has:
            chin = canvas.ellipse(0, MOUTH + 0.14, 0.19, 0.16)
            mouth = canvas.ellipse(0, MOUTH, 0.18, 0.06)
            canvas.paint(canvas.inside(np.maximum(chin, -mouth)), colour)

    def _mouth(self) -> None:
        canvas, smile = self.canvas, self.amount("Smiling")
        bend, half = 0.025 - 0.14 * smile, 0.165 + 0.06 * smile
        thick = 0.012 + 0.06 * self.amount("Big_Lips")
        y = MOUTH - 0.4 * bend
        if "Wearing_Lipstick" in self.has:
            lip = np.array([0.82, 0.05, 0.16]) * self.tone(23, 0.8, 1.15)
        else:
            lip = self.skin * np.array([0.8, 0.6, 0.58])
        if "Mouth_Slightly_Open" in self.has:
            gap = 0.022 + 0.028 * self.amount("Mouth_Slightly_Open")
            canvas.paint(canvas.inside(canvas.arc(0, y, half, bend, thick + gap)), lip)
            canvas.paint(
                canvas.inside(canvas.arc(0, y, half - 0.03, bend, gap)), (0.22, 0.04, 0.05)
            )
            teeth = canvas.arc(0, y - 0.4 * gap, half - 0.05, bend, 0.45 * gap)
            canvas.paint(canvas.inside(teeth), (1, 1, 0.97))
        else:
            canvas.paint(canvas.inside(canvas.arc(0, y, half, bend, thick + 0.012)), lip)
            canvas.paint(canvas.inside(canvas.arc(0, y, half, bend, 0.009)), lip * 0.4)

    def _hair(self) -> None:
        canvas, x, y = self.canvas, self.canvas.x, self.canvas.y
        receding = self.amount("Receding_Hairline")
        line = -0.37 + 0.04 * (not self.man) - 0.12 * receding
        corners = 0.45 * np.abs(x) if receding else -0.12 * np.abs(x)
        front = np.maximum(canvas.ellipse(0, -0.14, self.width + 0.05, 0.53), y - line + corners)
        canvas.paint(canvas.inside(front + 0.5 * self.wave), self.strands)
        if "Bangs" in self.has:
            fringe = y + 0.235 - 0.02 * np.sin(38 * x)
            cap = canvas.ellipse(0, -0.14, self.width + 0.04, 0.52)
            canvas.paint(canvas.inside(np.maximum(cap, fringe)), self.strands)

    def _glasses(self) -> None:
        canvas, frame = self.canvas, self.colour(24, 0.0, 0.3)
        for side in SIDES:
            rim = canvas.ellipse(side * EYE, EYE_HEIGHT, 0.15, 0.125)
            canvas.paint(canvas.inside(rim), (0.2, 0.3, 0.4), 0.25)
            canvas.paint(canvas.inside(np.abs(rim) - 0.02), frame)
        bridge = np.maximum(np.abs(canvas.x) - 0.055, np.abs(canvas.y - EYE_HEIGHT) - 0.015)
        canvas.paint(canvas.inside(bridge), frame)

    def _hat(self) -> None:
        canvas, y, w = self.canvas, self.canvas.y, self.width
        colour = self.colour(27)
        crown = np.maximum(canvas.ellipse(0, -0.36, w + 0.1, 0.5), y + 0.34)
        canvas.paint(canvas.inside(crown), colour)
        brim = np.maximum(np.abs(canvas.x) - (w + 0.24), np.abs(y + 0.34) - 0.045)
        canvas.paint(canvas.inside(brim), colour * 0.7)
