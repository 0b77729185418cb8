"""Rooms: a stand-in for NYUv2 with its thirteen classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator, SeedSequence

from mtlbench.tasks._scenes.geometry import BALL, BOX, COLUMN, Stage, Vector, frustum
from mtlbench.tasks._scenes.render import Camera, Light, Scene, check_size, render
from mtlbench.tasks._scenes.textures import Colour, Material, near, tint

ROOM_CLASSES = (
    "bed",
    "books",
    "ceiling",
    "chair",
    "floor",
    "furniture",
    "objects",
    "picture",
    "sofa",
    "table",
    "tv",
    "wall",
    "window",
)
BED, BOOKS, CEILING, CHAIR, FLOOR, FURNITURE, OBJECTS = range(7)
PICTURE, SOFA, TABLE, TV, WALL, WINDOW = range(7, 13)
FOV = 63.0

SHADE = frustum(0.6, 0.6)
WHITE = Material(((0.88, 0.88, 0.85),), grain=0.05)
BLACK = Material(((0.07, 0.07, 0.08),), gloss=0.3, unseen=0.15)
METAL = Material(((0.55, 0.55, 0.57),), gloss=0.3)
GLOWING = Material(((1.6, 1.5, 1.2),), grain=0.0)


def room(seed: int, height: int = 288, width: int = 384) -> Scene:
    """A furnished room.

    Labels are positions in :data:`ROOM_CLASSES`: 0 bed, 1 books, 2 ceiling, 3 chair, 4 floor,
    5 furniture, 6 objects, 7 picture, 8 sofa, 9 table, 10 tv, 11 wall, 12 window. As in NYUv2,
    doors are wall, rugs floor, curtains window, desks table, lamps and cushions objects. Parts of
    windows and of what is black have no depth.

    Args:
        seed: of everything; the same seed shows the same room at any size.

    Raises:
        UsageError: a side is shorter than 16 pixels.
    """
    check_size(height, width)
    rng, sensor = (np.random.default_rng(s) for s in SeedSequence([seed, 1]).spawn(2))
    wide, deep, tall = rng.uniform(3.4, 5.4), rng.uniform(3.6, 5.6), rng.uniform(2.35, 2.8)
    eye = (rng.uniform(-0.35, 0.35) * wide, rng.uniform(1.1, 1.7), rng.uniform(0.2, 0.7))
    aim = rng.uniform(-0.35, 0.35) * wide
    camera = Camera(
        position=eye,
        yaw=math.atan2(aim - eye[0], deep - eye[2]),
        pitch=rng.uniform(-0.36, -0.02),
        fov=FOV,
    )
    plan = _Plan(wide, deep, tall, eye)
    light = _shell(plan, rng)
    for chance, furnish in FURNISHINGS:
        if rng.random() < chance:
            furnish(plan, rng)
    return render(plan.stage.solids, camera, light, height, width, sensor)


# ------------------------------------------------------------------------------------ the plan
@dataclass
class _Plan:
    """What of the floor and of the walls is taken.

    The room reaches from z = 0 behind the camera to ``deep``, and to both sides of x = 0.
    """

    wide: float
    deep: float
    tall: float
    eye: Vector
    stage: Stage = field(default_factory=Stage)

    def __post_init__(self) -> None:
        x, _, z = self.eye
        self.floor = [(x - 0.6, x + 0.6, 0.0, z + 1.0)]
        # A wall's stage has its origin on the floor in the middle of the wall, x along it and z
        # into the room.
        self.walls = (
            (self.stage.at(0, self.deep, math.pi), self.wide / 2),
            (self.stage.at(-self.wide / 2, self.deep / 2, math.pi / 2), self.deep / 2),
            (self.stage.at(self.wide / 2, self.deep / 2, -math.pi / 2), self.deep / 2),
        )
        self.hung: tuple[list[tuple[float, float]], ...] = ([], [], [])

    def claim(self, here: Stage, half: float, front: float, back: float = 0.0) -> bool:
        """Take the floor from ``-half`` to ``half`` and from ``back`` to ``front``, if it is free
        and in the room."""
        corners = [here.world(x, 0, z) for x in (-half, half) for z in (back, front)]
        x0, x1 = min(c[0] for c in corners), max(c[0] for c in corners)
        z0, z1 = min(c[2] for c in corners), max(c[2] for c in corners)
        inside = max(-x0, x1) <= self.wide / 2 + 1e-6 and z0 >= 0 and z1 <= self.deep + 1e-6
        free = all(
            x1 <= left or right <= x0 or z1 <= low or high <= z0
            for left, right, low, high in self.floor
        )
        if inside and free:
            self.floor.append((x0, x1, z0, z1))
        return inside and free

    def against_wall(
        self, rng: Generator, half: float, front: float, *, tall: bool = False
    ) -> Stage | None:
        """A free place with its back to a wall; a tall thing also takes the wall."""
        for _ in range(12):
            k = int(rng.choice(3, p=(0.5, 0.25, 0.25)))
            wall, end = self.walls[k]
            x = rng.uniform(-1, 1) * max(end - half - 0.02, 0)
            if self.claim(wall.at(x, 0), half, front):
                if tall:
                    self.hung[k].append((x - half, x + half))
                return wall.at(x, 0.01)
        return None

    def in_the_open(self, rng: Generator, half: float, deep: float) -> Stage | None:
        """A free place away from the walls."""
        for _ in range(12):
            x, z = rng.uniform(-0.4, 0.4) * self.wide, rng.uniform(0.3, 0.85) * self.deep
            here = self.stage.at(x, z, rng.uniform(-0.4, 0.4))
            if self.claim(here, half, deep, -deep):
                return here
        return None

    def on_wall(self, rng: Generator, half: float) -> Stage | None:
        """A free stretch of a wall."""
        for _ in range(12):
            k = int(rng.choice(3, p=(0.56, 0.22, 0.22)))
            wall, end = self.walls[k]
            x = rng.uniform(-1, 1) * max(end - half - 0.1, 0)
            free = all(x + half < low or high < x - half for low, high in self.hung[k])
            if free and half < end:
                self.hung[k].append((x - half - 0.05, x + half + 0.05))
                return wall.at(x, 0)
        return None


# ------------------------------------------------------------------------------------ the shell
def _shell(plan: _Plan, rng: Generator) -> Light:
    """Floor, walls and ceiling, and the lamp on it."""
    wide, deep, tall, stage = plan.wide / 2, plan.deep / 2, plan.tall, plan.stage
    colour = tint(rng, (0.0, 0.35), (0.55, 0.95))
    paper = Material(
        (colour, near(rng, colour, 0.12)),
        str(rng.choice(["plain", "plain", "cloth", "stripes"])),
        rng.uniform(2, 6),
        grain=0.08,
    )
    grey = rng.uniform(0.75, 0.95)
    plaster = Material(((grey, grey, grey * 0.98),), grain=0.05)
    top = stage.at(0, deep, y=tall)
    top.put(BOX, (0, 0.1, 0), (wide, 0.1, deep), CEILING, plaster, casts=False)
    stage.put(BOX, (0, -0.1, deep), (wide, 0.1, deep), FLOOR, _flooring(rng), casts=False)
    skirting = WHITE if rng.random() < 0.5 else _wood(rng)
    for wall, end in plan.walls:
        half = (end + 0.2, tall / 2 + 0.1, 0.1)
        wall.put(BOX, (0, tall / 2, -0.1), half, WALL, paper, casts=False)
        wall.put(BOX, (0, 0.05, 0), (end, 0.05, 0.015), WALL, skirting, casts=False)

    lamp = (rng.uniform(-0.3, 0.3) * wide, -rng.uniform(0.15, 0.5), rng.uniform(-0.3, 0.3) * deep)
    cord = (lamp[0], lamp[1] / 2, lamp[2]), (0.012, -lamp[1] / 2, 0.012)
    top.put(COLUMN, *cord, OBJECTS, BLACK, casts=False)
    top.put(COLUMN, lamp, (0.2, 0.09, 0.2), OBJECTS, GLOWING, casts=False)
    x, y, z = top.world(*lamp)
    warm = rng.uniform(0.75, 1)
    return Light(
        position=(x, y, z),
        aim=(x, 0.0, z),
        strength=rng.uniform(0.5, 0.9),
        ambient=rng.uniform(0.5, 0.75),
        colour=(1.0, 0.5 + 0.5 * warm, warm),
        reach=4.0,
    )


def _flooring(rng: Generator) -> Material:
    """Boards, tiles or carpet."""
    kind = rng.integers(3)
    if kind == 0:
        brown = near(rng, (0.5, 0.35, 0.22), 0.4)
        return Material(
            (brown, near(rng, brown, 0.3), near(rng, (0.15, 0.1, 0.07), 0.3)), "planks", 8
        )
    if kind == 1:
        stone = near(rng, (0.65, 0.62, 0.57), 0.35)
        return Material((stone, near(rng, stone, 0.15), near(rng, stone, 0.4)), "tiles", 2.5)
    colour = tint(rng, (0.05, 0.5), (0.3, 0.75))
    return Material((colour, near(rng, colour, 0.2)), "cloth", 4, grain=0.25)


def _wood(rng: Generator) -> Material:
    """Wood, stained or painted."""
    if rng.random() < 0.25:
        colour = tint(rng, (0.0, 0.3), (0.5, 0.95))
        return Material((colour,), grain=0.06, gloss=0.1)
    brown = near(rng, (0.48, 0.32, 0.19), 0.55)
    return Material((brown, near(rng, brown, 0.35)), "wood", rng.uniform(3, 6), gloss=0.1)


def _fabric(rng: Generator) -> Material:
    colours = tint(rng, (0.05, 0.8), (0.2, 0.9)), tint(rng, (0.0, 0.5), (0.3, 0.95))
    pattern = str(rng.choice(["plain", "cloth", "stripes", "checks"], p=(0.4, 0.3, 0.15, 0.15)))
    return Material(colours, pattern, rng.uniform(3, 8), grain=0.2)


# ------------------------------------------------------------------------------------ furniture
def _bed(plan: _Plan, rng: Generator) -> None:
    half, long, top = rng.uniform(0.5, 0.9), rng.uniform(1.9, 2.1), rng.uniform(0.4, 0.6)
    here = plan.against_wall(rng, half, long)
    if here is None:
        return
    frame, cover = _wood(rng), _fabric(rng)
    here.put(BOX, (0, top / 3, long / 2), (half, top / 3, long / 2), BED, frame)
    mattress = (0, top * 0.75, long / 2), (half - 0.03, top / 4, long / 2 - 0.03)
    here.put(BOX, *mattress, BED, WHITE)
    duvet = (0, top * 0.72, long * 0.64), (half, top * 0.36, long * 0.36)
    here.put(BOX, *duvet, BED, cover)
    board = (0, top * 0.9, 0.03), (half, top * 0.9, 0.03)
    here.put(BOX, *board, BED, frame)
    for x in (-0.5, 0.5) if half > 0.65 else (0.0,):
        pillow = (x * half * 0.95, top + 0.09, 0.33), (half * 0.4 if x else 0.3, 0.1, 0.2)
        here.put(BALL, *pillow, OBJECTS, _fabric(rng) if rng.random() < 0.5 else WHITE)


def _sofa(plan: _Plan, rng: Generator) -> None:
    half, deep, seat = rng.uniform(0.75, 1.1), rng.uniform(0.8, 0.95), rng.uniform(0.38, 0.46)
    here = plan.against_wall(rng, half, deep)
    if here is None:
        return
    cover, back = _fabric(rng), seat + rng.uniform(0.35, 0.5)
    middle = 0.06 + deep / 2
    here.put(BOX, (0, seat / 2, middle), (half, seat / 2, deep / 2 - 0.06), SOFA, cover)
    here.put(BOX, (0, back / 2, 0.14), (half, back / 2, 0.12), SOFA, cover, lean=-0.1)
    for x in (-half + 0.09, half - 0.09):
        arm = (x, seat * 0.72, middle), (0.09, seat * 0.72, deep / 2 - 0.06)
        here.put(BOX, *arm, SOFA, cover)
    for x in (-0.4, 0.4):
        pad = (x * half, seat + 0.05, middle + 0.05), (half * 0.39, 0.06, deep / 2 - 0.14)
        here.put(BOX, *pad, SOFA, cover)
    for _ in range(rng.integers(0, 4)):
        cushion = (rng.uniform(-0.65, 0.65) * half, seat + 0.3, 0.38), (0.22, 0.2, 0.08)
        here.put(BALL, *cushion, OBJECTS, _fabric(rng), lean=-0.3)
    if rng.random() < 0.6:
        _low_table(plan, here.at(0, deep + rng.uniform(0.55, 0.8)), rng)


def _low_table(plan: _Plan, here: Stage, rng: Generator) -> None:
    half, deep, top = rng.uniform(0.4, 0.6), rng.uniform(0.25, 0.35), rng.uniform(0.36, 0.48)
    if plan.claim(here, half, deep, -deep):
        _on_legs(here, half, deep, top, _wood(rng))
        _things(here.at(0, 0, y=top), rng, half, deep, 3)


def _on_legs(here: Stage, half: float, deep: float, top: float, wood: Material) -> None:
    here.put(BOX, (0, top - 0.025, 0), (half, 0.025, deep), TABLE, wood)
    for x in (-half + 0.04, half - 0.04):
        for z in (-deep + 0.04, deep - 0.04):
            here.put(BOX, (x, top / 2, z), (0.035, top / 2 - 0.02, 0.035), TABLE, wood)


def _dining_table(plan: _Plan, rng: Generator) -> None:
    half, top, pillar = rng.uniform(0.45, 0.8), rng.uniform(0.7, 0.78), rng.random() < 0.3
    deep = half if pillar else rng.uniform(0.38, 0.5)
    here = plan.in_the_open(rng, half, deep)
    if here is None:
        return
    wood = _wood(rng)
    if pillar:
        here.put(COLUMN, (0, top - 0.025, 0), (half, 0.025, half), TABLE, wood)
        here.put(COLUMN, (0, top / 2, 0), (0.06, top / 2, 0.06), TABLE, wood)
        here.put(COLUMN, (0, 0.02, 0), (0.3, 0.02, 0.3), TABLE, wood)
    else:
        _on_legs(here, half, deep, top, wood)
    _things(here.at(0, 0, y=top), rng, half * 0.9, deep * 0.9, 4)
    style = _ChairStyle(rng)
    for x, z, yaw in ((0, -1, 0.0), (0, 1, math.pi), (-1, 0, math.pi / 2), (1, 0, -math.pi / 2)):
        if rng.random() < 0.6:
            place = here.at(x * (half + 0.2), z * (deep + 0.2), yaw + rng.normal(0, 0.2))
            _chair(place, style)


def _desk(plan: _Plan, rng: Generator) -> None:
    half, deep, top = rng.uniform(0.55, 0.8), rng.uniform(0.6, 0.75), rng.uniform(0.7, 0.78)
    here = plan.against_wall(rng, half, deep)
    if here is None:
        return
    wood = _wood(rng)
    here.put(BOX, (0, top - 0.02, deep / 2), (half, 0.02, deep / 2), TABLE, wood)
    for x in (-half + 0.03, half - 0.03):
        here.put(BOX, (x, top / 2, deep / 2), (0.025, top / 2 - 0.02, deep / 2 - 0.03), TABLE, wood)
    drawers = (half * 0.6, top * 0.65, deep / 2), (half * 0.35, top * 0.3, deep / 2 - 0.05)
    here.put(BOX, *drawers, TABLE, wood)
    if rng.random() < 0.6:
        _screen(here.at(rng.uniform(-0.3, 0.3) * half, 0.22, y=top), rng, 0.3, 0.2)
    _things(here.at(0, deep / 2, y=top), rng, half, deep / 2, 4)
    if rng.random() < 0.8:
        yaw = math.pi + rng.normal(0, 0.5)
        _chair(here.at(rng.uniform(-0.3, 0.3) * half, deep + 0.15, yaw), _ChairStyle(rng))


class _ChairStyle:
    """What the chairs around a table have in common."""

    def __init__(self, rng: Generator) -> None:
        self.frame = METAL if rng.random() < 0.3 else _wood(rng)
        self.seat = _fabric(rng) if rng.random() < 0.6 else self.frame
        self.back = rng.uniform(0.2, 0.3)
        self.swivels = rng.random() < 0.25


def _chair(here: Stage, style: _ChairStyle) -> None:
    """It faces along the stage's z axis."""
    here.put(BOX, (0, 0.45, 0), (0.22, 0.03, 0.21), CHAIR, style.seat)
    back = (0, 0.5 + style.back, -0.21), (0.21, style.back, 0.02)
    here.put(BOX, *back, CHAIR, style.seat, lean=-0.12)
    if style.swivels:
        here.put(COLUMN, (0, 0.24, 0), (0.035, 0.2, 0.035), CHAIR, BLACK)
        here.put(COLUMN, (0, 0.04, 0), (0.26, 0.03, 0.26), CHAIR, BLACK)
        return
    for x in (-0.19, 0.19):
        for z in (-0.18, 0.18):
            here.put(BOX, (x, 0.21, z), (0.022, 0.21, 0.022), CHAIR, style.frame)


def _lone_chair(plan: _Plan, rng: Generator) -> None:
    here = plan.in_the_open(rng, 0.3, 0.3)
    if here is not None:
        _chair(here.at(0, 0, rng.uniform(-math.pi, math.pi)), _ChairStyle(rng))


def _bookcase(plan: _Plan, rng: Generator) -> None:
    half, deep, shelves = rng.uniform(0.35, 0.6), rng.uniform(0.26, 0.34), int(rng.integers(3, 6))
    here = plan.against_wall(rng, half, deep, tall=True)
    if here is None:
        return
    wood, pitch, middle = _wood(rng), rng.uniform(0.33, 0.4), deep / 2
    top = shelves * pitch
    here.put(BOX, (0, top / 2, 0.01), (half, top / 2, 0.01), FURNITURE, wood)
    for x in (-half, half):
        here.put(BOX, (x, top / 2, middle), (0.02, top / 2, middle), FURNITURE, wood)
    for k in range(shelves + 1):
        here.put(BOX, (0, k * pitch, middle), (half, 0.015, middle), FURNITURE, wood)
    for k in range(shelves):
        shelf = here.at(0, middle, y=k * pitch + 0.015)
        if rng.random() < 0.85:
            _row_of_books(shelf, rng, half - 0.03, middle - 0.03, pitch - 0.03)
        else:
            _things(shelf, rng, half * 0.9, middle * 0.5, 3)


def _row_of_books(shelf: Stage, rng: Generator, half: float, deep: float, room: float) -> None:
    """Several blocks of books of about a height, and a gap now and then."""
    x = -half
    while x < half - 0.1:
        long, tall = min(rng.uniform(0.12, 0.4), half - x) / 2, room * rng.uniform(0.6, 0.92) / 2
        if rng.random() < 0.88:
            back = deep * rng.uniform(0.75, 1)
            block = (x + long, tall, back - deep), (long, tall, back)
            shelf.put(BOX, *block, BOOKS, _spines(rng))
        x += 2 * long


def _spines(rng: Generator) -> Material:
    a, b, c, d = (tint(rng, (0.2, 0.9), (0.15, 0.9)) for _ in range(4))
    return Material((a, b, c, d), "spines", rng.uniform(22, 40), grain=0.2)


def _cupboard(plan: _Plan, rng: Generator) -> None:
    """A wardrobe or a chest of drawers."""
    high = rng.random() < 0.4
    half, deep = rng.uniform(0.4, 0.75), rng.uniform(0.4, 0.6)
    top = rng.uniform(1.7, 2.1) if high else rng.uniform(0.7, 1.1)
    here = plan.against_wall(rng, half, deep, tall=high)
    if here is None:
        return
    wood = _wood(rng)
    here.put(BOX, (0, top / 2, deep / 2), (half, top / 2, deep / 2 - 0.02), FURNITURE, wood)
    doors, rows = (2, 1) if high else (int(rng.integers(1, 3)), int(rng.integers(2, 5)))
    wide, tall = half / doors, top / 2 / rows
    for i in range(doors):
        for j in range(rows):
            x, y = (2 * i + 1) * wide - half, (2 * j + 1) * tall
            here.put(BOX, (x, y, deep), (wide - 0.02, tall - 0.02, 0.012), FURNITURE, wood)
            here.put(BOX, (x, y, deep + 0.02), (0.06, 0.012, 0.012), FURNITURE, METAL)
    if not high:
        _things(here.at(0, deep / 2, y=top), rng, half, deep / 2, 4)


def _wall_shelf(plan: _Plan, rng: Generator) -> None:
    half, middle = rng.uniform(0.35, 0.7), rng.uniform(0.1, 0.14)
    here = plan.on_wall(rng, half)
    if here is None:
        return
    wood = _wood(rng)
    for y in np.arange(rng.uniform(1.15, 1.4), 1.95, 0.36).tolist():
        here.put(BOX, (0, y, middle), (half, 0.015, middle), FURNITURE, wood)
        shelf = here.at(0, middle, y=y + 0.015)
        if rng.random() < 0.6:
            _row_of_books(shelf, rng, half - 0.03, middle - 0.02, 0.32)
        else:
            _things(shelf, rng, half, middle * 0.5, 3)


def _tv_bench(plan: _Plan, rng: Generator) -> None:
    half, deep, top = rng.uniform(0.6, 0.95), rng.uniform(0.38, 0.48), rng.uniform(0.4, 0.65)
    here = plan.against_wall(rng, half, deep, tall=True)
    if here is None:
        return
    wood = _wood(rng)
    here.put(BOX, (0, top / 2, deep / 2), (half, top / 2, deep / 2), FURNITURE, wood)
    for x in (-half / 2, half / 2):
        door = (x, top / 2, deep), (half / 2 - 0.02, top / 2 - 0.03, 0.01)
        here.put(BOX, *door, FURNITURE, wood)
    size = rng.uniform(0.45, 0.65)
    x = rng.uniform(-1, 1) * max(half - size, 0)
    _screen(here.at(x, 0.2, y=top), rng, size, size * 0.58)


def _screen(here: Stage, rng: Generator, half: float, tall: float) -> None:
    """A television on its foot; it faces along the stage's z axis."""
    shown = (tint(rng, (0.1, 0.9), (0.2, 1.0)) for _ in range(3))
    glass = Material(((0.05, 0.05, 0.06), *shown), "screen", rng.uniform(1, 4), 0.0, 0.4, 0.5)
    here.put(BOX, (0, 0.02, 0), (half * 0.4, 0.02, 0.1), TV, BLACK)
    here.put(BOX, (0, tall + 0.07, 0), (half, tall, 0.025), TV, BLACK)
    face = (0, tall + 0.07, 0.026), (half - 0.025, tall - 0.025, 0.003)
    here.put(BOX, *face, TV, glass, casts=False)


# ------------------------------------------------------------------------------------ small things
def _things(here: Stage, rng: Generator, half: float, deep: float, most: int) -> None:
    """Some of what lies about on a surface: books, cups, vases, boxes, lamps."""
    for _ in range(rng.integers(0, most + 1)):
        x, z = rng.uniform(-0.85, 0.85) * half, rng.uniform(-0.8, 0.8) * deep
        make = (_pile, _pile, _cup, _vase, _box, _table_lamp)[rng.integers(6)]
        make(here.at(x, z, rng.uniform(-1, 1)), rng)


def _pile(here: Stage, rng: Generator) -> None:
    """Books that lie on each other."""
    y = 0.0
    for _ in range(rng.integers(1, 5)):
        thick = rng.uniform(0.015, 0.03)
        cover = Material((tint(rng, (0.2, 0.9), (0.2, 0.9)),))
        yaw = rng.normal(0, 0.15)
        here.put(BOX, (0, y + thick, 0), (0.12, thick, 0.16), BOOKS, cover, yaw=yaw)
        y += 2 * thick


def _cup(here: Stage, rng: Generator) -> None:
    tall, wide = rng.uniform(0.06, 0.16), rng.uniform(0.045, 0.08)
    glaze = Material((tint(rng, (0.0, 0.9), (0.3, 0.95)),), gloss=0.4)
    here.put(COLUMN, (0, tall, 0), (wide, tall, wide), OBJECTS, glaze)


def _vase(here: Stage, rng: Generator) -> None:
    """With leaves in it."""
    glaze, size = Material((tint(rng, (0.1, 0.9), (0.3, 0.9)),), gloss=0.4), rng.uniform(0.7, 1.3)
    here = here.at(0, 0, size=size)
    here.put(BALL, (0, 0.11, 0), (0.09, 0.12, 0.09), OBJECTS, glaze)
    for _ in range(3):
        x, z = rng.uniform(-0.07, 0.07, 2).tolist()
        here.put(BALL, (x, 0.3, z), (0.09, 0.12, 0.09), OBJECTS, _foliage(rng))


def _foliage(rng: Generator) -> Material:
    green = tuple(rng.uniform((0.2, 0.4, 0.1), (0.4, 0.6, 0.25)).tolist())
    return Material(((0.08, 0.18, 0.06), green), "leaves", 5, grain=0.4)


def _box(here: Stage, rng: Generator) -> None:
    half = (rng.uniform(0.07, 0.16), rng.uniform(0.05, 0.16), rng.uniform(0.06, 0.12))
    here.put(BOX, (0, half[1], 0), half, OBJECTS, _fabric(rng))


def _table_lamp(here: Stage, rng: Generator) -> None:
    here.put(COLUMN, (0, 0.13, 0), (0.03, 0.13, 0.03), OBJECTS, METAL)
    shade = GLOWING if rng.random() < 0.5 else _fabric(rng)
    here.put(SHADE, (0, 0.35, 0), (0.15, 0.11, 0.15), OBJECTS, shade)


def _floor_lamp(plan: _Plan, rng: Generator) -> None:
    here = plan.against_wall(rng, 0.2, 0.4)
    if here is None:
        return
    tall, middle = rng.uniform(1.3, 1.7), here.at(0, 0.2)
    middle.put(COLUMN, (0, 0.02, 0), (0.15, 0.02, 0.15), OBJECTS, METAL)
    middle.put(COLUMN, (0, tall / 2, 0), (0.02, tall / 2, 0.02), OBJECTS, METAL)
    shade = GLOWING if rng.random() < 0.5 else _fabric(rng)
    middle.put(SHADE, (0, tall, 0), (0.2, 0.15, 0.2), OBJECTS, shade)


def _pot_plant(plan: _Plan, rng: Generator) -> None:
    here = plan.against_wall(rng, 0.25, 0.5)
    if here is None:
        return
    middle, size, leaves = here.at(0, 0.25), rng.uniform(0.8, 1.3), _foliage(rng)
    pot = Material((near(rng, (0.6, 0.35, 0.25), 0.5),))
    middle.put(COLUMN, (0, 0.17, 0), (0.18, 0.17, 0.18), OBJECTS, pot)
    for _ in range(5):
        x, y, z = (rng.uniform((-0.12, 0.4, -0.12), (0.12, 0.9, 0.12)) * size).tolist()
        middle.put(BALL, (x, y, z), (0.16 * size, 0.2 * size, 0.16 * size), OBJECTS, leaves)


def _on_the_floor(plan: _Plan, rng: Generator) -> None:
    """A crate, a bag or a ball."""
    here = plan.in_the_open(rng, 0.25, 0.25)
    if here is None:
        return
    half = (rng.uniform(0.12, 0.25), rng.uniform(0.1, 0.25), rng.uniform(0.12, 0.22))
    shape = (BOX, BOX, SHADE, BALL)[rng.integers(4)]
    here.put(shape, (0, half[1], 0), half, OBJECTS, _fabric(rng), yaw=rng.uniform(-1, 1))


# ------------------------------------------------------------------------------------ the walls
def _window(plan: _Plan, rng: Generator) -> None:
    half, tall, sill = rng.uniform(0.45, 1.0), rng.uniform(0.5, 0.65), rng.uniform(0.8, 1.0)
    here = plan.on_wall(rng, half + 0.2)
    if here is None:
        return
    day = rng.uniform(0.7, 1.7)
    view: tuple[Colour, ...] = ((0.2, 0.3, 0.15), (0.45, 0.5, 0.4), (0.75, 0.85, 1.0))
    seen = tuple((day * r, day * g, day * b) for r, g, b in view)
    pane = Material(seen, "outdoors", 1.2, grain=0.1, gloss=0.2, unseen=0.6)
    middle = here.at(0, 0, y=sill + tall)
    middle.put(BOX, (0, 0, 0), (half, tall, 0.02), WINDOW, pane, casts=False)
    for y in (-tall, tall):
        middle.put(BOX, (0, y, 0.02), (half + 0.04, 0.04, 0.03), WINDOW, WHITE)
    for x in (-half, 0.0, half):
        middle.put(BOX, (x, 0, 0.02), (0.035, tall, 0.03), WINDOW, WHITE)
    if rng.random() < 0.5:
        colour = tint(rng, (0.0, 0.6), (0.4, 0.95))
        cloth = Material((colour, near(rng, colour, 0.4)), "folds", rng.uniform(5, 9))
        drop = rng.choice([tall + 0.15, sill + tall])
        for x in (-half, half):
            curtain = (x, tall + 0.1 - drop, 0.08), (rng.uniform(0.12, 0.3), drop, 0.03)
            middle.put(BOX, *curtain, WINDOW, cloth)


def _pictures(plan: _Plan, rng: Generator) -> None:
    for _ in range(rng.integers(1, 4)):
        half, tall = rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.4)
        here = plan.on_wall(rng, half)
        if here is None:
            return
        palette = tuple(tint(rng, (0.1, 0.9), (0.2, 0.95)) for _ in range(4))
        canvas = Material(palette, "painting", rng.uniform(1, 4), grain=0.05)
        middle = here.at(0, 0, y=rng.uniform(1.4, 1.65))
        frame = _wood(rng) if rng.random() < 0.6 else BLACK
        middle.put(BOX, (0, 0, 0.01), (half, tall, 0.015), PICTURE, frame)
        face = (0, 0, 0.02), (half - 0.035, tall - 0.035, 0.008)
        middle.put(BOX, *face, PICTURE, canvas, casts=False)


def _door(plan: _Plan, rng: Generator) -> None:
    here = plan.on_wall(rng, 0.5)
    if here is None or not plan.claim(here, 0.45, 0.3):
        return
    wood = WHITE if rng.random() < 0.5 else _wood(rng)
    here.put(BOX, (0, 1.02, 0), (0.5, 1.04, 0.02), WALL, WHITE, casts=False)
    here.put(BOX, (0, 1.0, 0), (0.42, 1.0, 0.035), WALL, wood, casts=False)
    here.put(BOX, (0.34, 1.0, 0.06), (0.06, 0.015, 0.02), WALL, METAL)


def _rug(plan: _Plan, rng: Generator) -> None:
    x, z = rng.uniform(-0.2, 0.2) * plan.wide, rng.uniform(0.4, 0.65) * plan.deep
    here = plan.stage.at(x, z, rng.normal(0, 0.1))
    half = (rng.uniform(0.6, 1.1), 0.006, rng.uniform(0.5, 0.9))
    palette = tuple(tint(rng, (0.2, 0.8), (0.2, 0.8)) for _ in range(3))
    pattern = str(rng.choice(["painting", "checks", "bars"]))
    wool = Material(palette, pattern, rng.uniform(2, 6), grain=0.25)
    here.put(BOX, (0, 0, 0), half, FLOOR, wool, casts=False)


FURNISHINGS: tuple[tuple[float, Callable[[_Plan, Generator], None]], ...] = (
    (0.45, _bed),
    (0.55, _sofa),
    (0.55, _tv_bench),
    (0.7, _bookcase),
    (0.75, _cupboard),
    (0.5, _cupboard),
    (0.5, _desk),
    (0.5, _dining_table),
    (0.35, _lone_chair),
    (0.35, _floor_lamp),
    (0.4, _pot_plant),
    (0.6, _on_the_floor),
    (0.4, _on_the_floor),
    (0.35, _door),
    (0.75, _window),
    (0.45, _wall_shelf),
    (0.85, _pictures),
    (0.5, _rug),
)
"""How often a room is furnished with what, large things first."""
