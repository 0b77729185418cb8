"""Streets: a stand-in for Cityscapes with the seven classes of MTAN."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator, SeedSequence

from mtlbench.tasks._scenes.geometry import (
    BALL,
    BOX,
    COLUMN,
    DISC,
    GABLE,
    WHEEL,
    Stage,
    frustum,
    pixel_grid,
)
from mtlbench.tasks._scenes.render import IGNORED, Camera, Light, Scene, Sky, check_size, render
from mtlbench.tasks._scenes.textures import Array, Material, near, tint

STREET_CLASSES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
FLAT, CONSTRUCTION, OBJECT, NATURE, SKY, HUMAN, VEHICLE = range(7)
FOV = 55.0
SUN = 1e4
END = 90.0
"""Metres ahead up to which there is something beside the road."""

CABIN = frustum(0.82, 0.55)
SKIRT = frustum(0.7, 0.7)
RUBBER = Material(((0.05, 0.05, 0.05),))
GLASS = Material(((0.10, 0.13, 0.16),), gloss=0.4)
STEEL = Material(((0.42, 0.43, 0.44),), gloss=0.2)
BLACK = Material(((0.08, 0.09, 0.09),))
PAINT = Material(((0.85, 0.85, 0.82),), grain=0.3)
BARK = Material(((0.25, 0.18, 0.12), (0.40, 0.31, 0.22)), "wood", 4.0)


def street(seed: int, height: int = 128, width: int = 256) -> Scene:
    """A street as a car's camera sees it.

    Labels are positions in :data:`STREET_CLASSES`: 0 flat (road and pavement), 1 construction
    (houses, walls, fences), 2 object (poles, signs, lights), 3 nature, 4 sky, 5 human, 6 vehicle.
    The car's own bonnet and a rim around the picture are ignored (-1); they and the sky have no
    depth.

    Args:
        seed: of everything; the same seed shows the same street at any size.

    Raises:
        UsageError: a side is shorter than 16 pixels.
    """
    check_size(height, width)
    rng, sensor = (np.random.default_rng(s) for s in SeedSequence([seed, 0]).spawn(2))
    road = rng.uniform(3.6, 5.6)
    camera = Camera(
        position=(rng.uniform(-0.4, 0.4) * road, rng.uniform(1.2, 1.9), 0.0),
        yaw=rng.uniform(-0.1, 0.1),
        pitch=rng.uniform(-0.09, 0.05),
        fov=FOV,
    )
    light, sky = _weather(rng)
    stage = Stage()
    _road(stage, rng, road)
    for side in (-1, 1):
        _roadside(stage, rng, camera, side, road)
    _traffic(stage, rng, camera, road)
    if rng.random() < 0.45:
        _crossing(stage, rng, road)
    bonnet = rng.uniform(0.04, 0.13), rng.uniform(0.1, 0.4, 3)
    return _own_car(render(stage.solids, camera, light, height, width, sensor, sky), *bonnet)


def _weather(rng: Generator) -> tuple[Light, Sky]:
    """From a clear noon to an overcast afternoon."""
    sunny, turn, up = rng.uniform(0.1, 1), rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 1.2)
    flat = SUN * math.cos(up)
    light = Light(
        position=(flat * math.sin(turn), SUN * math.sin(up), flat * math.cos(turn)),
        aim=(0.0, 0.0, 0.0),
        strength=0.9 * sunny,
        ambient=rng.uniform(0.65, 0.85),
        colour=(1.0, 0.96, 0.88),
    )
    grey = rng.uniform(0.6, 0.95)
    sky = Sky(
        label=SKY,
        horizon=(grey, grey * 1.01, grey * 1.03),
        zenith=(grey * (1 - 0.5 * sunny), grey * (1 - 0.25 * sunny), grey * 1.05),
        haze=rng.uniform(80, 300),
        clouds=1 - sunny,
    )
    return light, sky


def _in_view(camera: Camera, x: float, beyond: float) -> float:
    """How far ahead something at ``x`` is to be: ``beyond`` metres from where it gets into view."""
    aside = x - camera.position[0]
    edge = math.tan(math.radians(0.46 * FOV) + math.copysign(1, aside) * camera.yaw)
    return max(abs(aside) / edge, 4.5) + beyond


# ------------------------------------------------------------------------------------ the street
def _road(stage: Stage, rng: Generator, road: float) -> None:
    """The road, and perhaps a house at the end of it."""
    grey = rng.uniform(0.22, 0.42)
    asphalt = grey, grey, grey * rng.uniform(1, 1.08)
    lanes = Material((asphalt, (0.85, 0.85, 0.8)), "lanes", grain=0.25)
    _slab(stage, 0, road, 0, FLAT, lanes)
    if rng.random() < 0.5:
        _house(stage.at(0, rng.uniform(0.5, 1) * END, -math.pi / 2), rng, 1, 20)


def _slab(stage: Stage, x: float, half: float, top: float, label: int, cover: Material) -> None:
    """Ground to both sides of ``x``, from behind the camera to the horizon."""
    stage.put(BOX, (x, top - 0.5, 200), (half, 0.5, 230), label, cover, casts=False)


def _roadside(stage: Stage, rng: Generator, camera: Camera, side: int, road: float) -> None:
    """Everything on one side of the road."""
    walk = rng.uniform(2.2, 4.0)
    stone = near(rng, (0.52, 0.50, 0.48), 0.25)
    palette = stone, near(rng, stone, 0.15), near(rng, stone, 0.3)
    tiles = Material(palette, "tiles", rng.uniform(0.7, 2))
    _slab(stage, side * (road + walk / 2), walk / 2, 0.13, FLAT, tiles)
    grass = Material(((0.16, 0.27, 0.08), (0.40, 0.47, 0.20)), "leaves", 2.0)
    _slab(stage, side * (road + walk + 60), 60, 0.11, NATURE, grass)
    _houses(stage, rng, side, road + walk)
    _street_furniture(stage, rng, camera, side, road)
    if road > 4.2 and rng.random() < 0.8:
        _parked(stage, rng, camera, side, road)
    for _ in range(rng.integers(1, 4)):
        x = side * (road + rng.uniform(0.4, walk - 0.3))
        z, heading = _in_view(camera, x, rng.gamma(1.5, 3.5)), math.pi * rng.integers(2)
        for k in range(1 + (rng.random() < 0.35)):
            _person(stage.at(x + 0.6 * k, z, heading + rng.normal(0, 0.4), y=0.13), rng)


def _houses(stage: Stage, rng: Generator, side: int, kerb: float) -> None:
    """A row of houses, with gardens in the gaps."""
    front = side * (kerb + rng.choice([rng.uniform(0.1, 0.5), rng.uniform(1.5, 5)]))
    density = rng.uniform(0.4, 0.95)
    z = rng.uniform(-4, 4)
    while z < END:
        half = rng.uniform(3.5, 9)
        build = _house if rng.random() < density else _garden
        build(stage.at(front, z + half), rng, side, half)
        z += 2 * half + rng.choice([0.0, rng.uniform(0.5, 4)])


def _house(stage: Stage, rng: Generator, side: int, half: float) -> None:
    """Its front lies along the stage's z axis, its body to this side of it."""
    storey, deep = rng.uniform(2.7, 3.4), rng.uniform(3, 6)
    tall, middle = rng.integers(2, 6) * storey / 2, side * deep
    wall = tint(rng, (0.03, 0.3), (0.35, 0.9))
    palette = wall, (0.12, 0.15, 0.2), near(rng, (0.6, 0.57, 0.5), 0.3)
    front = Material(palette, "windows", 1 / storey, grain=0.2)
    stage.put(BOX, (middle, tall, 0), (deep, tall, half), CONSTRUCTION, front)
    if rng.random() < 0.5:
        reds = near(rng, (0.45, 0.2, 0.15), 0.4), near(rng, (0.3, 0.25, 0.25), 0.3)
        up = rng.uniform(0.8, 2)
        roof = (middle, 2 * tall + up, 0), (deep + 0.3, up, half)
        stage.put(GABLE, *roof, CONSTRUCTION, Material(reds, "bars", 4))
    if rng.random() < 0.5:
        shop = Material((near(rng, wall, 0.4), (0.15, 0.17, 0.2)), "windows", 0.5)
        stage.put(BOX, (0, 1.5, 0), (0.08, 1.5, half), CONSTRUCTION, shop)
    if rng.random() < 0.3:
        awning = Material((tint(rng, (0.3, 0.9), (0.4, 0.9)), (0.85, 0.85, 0.8)), "bars")
        stage.put(BOX, (-side * 0.6, 3, 0), (0.7, 0.06, half * 0.8), CONSTRUCTION, awning)


def _garden(stage: Stage, rng: Generator, side: int, half: float) -> None:
    """A wall, a fence or a hedge, with trees behind it."""
    kind = rng.integers(3)
    if kind == 0:
        reds = near(rng, (0.5, 0.28, 0.2), 0.3), near(rng, (0.55, 0.38, 0.3), 0.2)
        bricks = Material((*reds, (0.6, 0.6, 0.58)), "bricks", 3)
        stage.put(BOX, (side * 0.2, 0.9, 0), (0.15, 0.9, half), CONSTRUCTION, bricks)
    elif kind == 1:
        browns = near(rng, (0.45, 0.35, 0.25), 0.4), near(rng, (0.5, 0.42, 0.32), 0.3)
        planks = Material(browns, "planks", 6)
        stage.put(BOX, (side * 0.1, 0.8, 0), (0.05, 0.8, half), CONSTRUCTION, planks)
    else:
        hedge = (side * 0.5, 0.8, 0), (0.5, rng.uniform(0.5, 1.1), half)
        stage.put(BOX, *hedge, NATURE, _leaves(rng, 2.5))
    for _ in range(rng.integers(1, 3)):
        _tree(stage.at(side * rng.uniform(2, 5), rng.uniform(-0.8, 0.8) * half), rng, side)


# ------------------------------------------------------------------------------------ the kerb
def _street_furniture(stage: Stage, rng: Generator, camera: Camera, side: int, road: float) -> None:
    """Lamp posts, traffic lights, signs and trees along the kerb."""
    trees, x = rng.uniform(0.1, 0.6), side * (road + 0.4)
    z = _in_view(camera, x, rng.uniform(0.5, 8))
    while z < 70:
        poles = _lamp_post, _traffic_light, _sign, _sign
        plant = _tree if rng.random() < trees else poles[rng.integers(len(poles))]
        plant(stage.at(x, z), rng, side)
        z += rng.uniform(5, 14)


def _leaves(rng: Generator, scale: float) -> Material:
    green = rng.uniform(0.22, 0.5), rng.uniform(0.38, 0.55), rng.uniform(0.1, 0.2)
    dark, bright = ((share * green[0], share * green[1], share * green[2]) for share in (0.35, 1.1))
    return Material((dark, bright), "leaves", scale, grain=0.4)


def _tree(stage: Stage, rng: Generator, side: int) -> None:
    trunk, crown, thick = rng.uniform(1.6, 3.0), rng.uniform(1.0, 2.1), rng.uniform(0.1, 0.22)
    stage.put(COLUMN, (0, trunk / 2, 0), (thick, trunk / 2, thick), NATURE, BARK)
    leaves = _leaves(rng, 1.5)
    for _ in range(3):
        x, y, z = (rng.uniform(-0.5, 0.5, 3) * crown).tolist()
        a, b, c = (rng.uniform(0.6, 0.9, 3) * crown).tolist()
        stage.put(BALL, (x, trunk + crown * 0.7 + y, z), (a, b, c), NATURE, leaves)


def _lamp_post(stage: Stage, rng: Generator, side: int) -> None:
    tall = rng.uniform(4.5, 7)
    stage.put(COLUMN, (0, tall / 2, 0), (0.1, tall / 2, 0.1), OBJECT, STEEL)
    stage.put(COLUMN, (0, 0.5, 0), (0.16, 0.5, 0.16), OBJECT, STEEL)
    stage.put(BOX, (-side * 0.7, tall, 0), (0.8, 0.06, 0.06), OBJECT, STEEL)
    stage.put(BOX, (-side * 1.5, tall, 0), (0.35, 0.1, 0.15), OBJECT, STEEL)


def _traffic_light(stage: Stage, rng: Generator, side: int) -> None:
    stage.put(COLUMN, (0, 1.6, 0), (0.09, 1.6, 0.09), OBJECT, STEEL)
    stage.put(BOX, (0, 3.2, -0.1), (0.24, 0.6, 0.16), OBJECT, BLACK)
    lights = (0.9, 0.1, 0.08), (0.95, 0.7, 0.1), (0.1, 0.85, 0.35)
    shining = rng.integers(3)
    bulb = (0, 3.6 - 0.4 * float(shining), -0.27), (0.15, 0.15, 0.02)
    stage.put(DISC, *bulb, OBJECT, Material((lights[shining],)), casts=False)


def _sign(stage: Stage, rng: Generator, side: int) -> None:
    tall, size, turned = rng.uniform(2.1, 2.9), rng.uniform(0.35, 0.55), rng.normal(0, 0.2)
    colours = (0.8, 0.08, 0.08), (0.08, 0.2, 0.7), (0.9, 0.75, 0.1), (0.9, 0.9, 0.9)
    palette = colours[rng.integers(4)], colours[rng.integers(4)]
    plate = (0, tall + size * 0.6, -0.09), (size, size, 0.02)
    shape = DISC if rng.random() < 0.5 else BOX
    stage.put(COLUMN, (0, tall / 2, 0), (0.08, tall / 2, 0.08), OBJECT, STEEL)
    stage.put(shape, *plate, OBJECT, Material(palette, "bars", 1.2, grain=0.05), yaw=turned)


# ------------------------------------------------------------------------------------ vehicles
def _parked(stage: Stage, rng: Generator, camera: Camera, side: int, road: float) -> None:
    density, x = rng.uniform(0.2, 0.75), side * (road - 1.15)
    for z in np.arange(_in_view(camera, x, rng.uniform(2, 7)), 60, 6.2).tolist():
        if rng.random() < density:
            yaw = _heading(x) + rng.normal(0, 0.03)
            _vehicle(stage.at(x, z + rng.uniform(-0.3, 0.3), yaw), rng, large=0.1)


def _traffic(stage: Stage, rng: Generator, camera: Camera, road: float) -> None:
    """Cars and riders, a lane each way."""
    for x in (-0.36 * road, 0.36 * road):
        ours = abs(x - camera.position[0]) < 1.6
        z = rng.uniform(10, 45) if ours else _in_view(camera, x, rng.uniform(4, 35))
        if rng.random() < 0.65:
            _vehicle(stage.at(x, z, _heading(x) + rng.normal(0, 0.04)), rng, large=0.3)
        if rng.random() < 0.35:
            x += rng.uniform(-0.6, 0.6)
            z = _in_view(camera, x, rng.gamma(2, 4))
            _rider(stage.at(x, z, _heading(x) + rng.normal(0, 0.15)), rng)


def _heading(x: float) -> float:
    """Traffic keeps to the right."""
    return math.pi if x < 0 else 0.0


def _vehicle(stage: Stage, rng: Generator, large: float) -> None:
    (_truck if rng.random() < large else _car)(stage, rng)


def _lacquer(rng: Generator) -> Material:
    """Grey, or of any colour."""
    grey = rng.uniform(0.06, 0.95)
    colour = (grey, grey, grey) if rng.random() < 0.5 else tint(rng, (0.4, 0.95), (0.25, 0.9))
    return Material((colour,), gloss=0.5, grain=0.05)


def _car(stage: Stage, rng: Generator) -> None:
    paint, wide, long = _lacquer(rng), rng.uniform(0.82, 0.95), rng.uniform(1.8, 2.3)
    up, back = rng.uniform(0.24, 0.34), rng.choice([0.0, -0.25])
    stage.put(BOX, (0, 0.62, 0), (wide, 0.32, long), VEHICLE, paint)
    cabin = (0, 0.94 + up, back), (wide * 0.95, up, long * 0.68)
    stage.put(CABIN, *cabin, VEHICLE, GLASS)
    roof = (0, 0.94 + 2 * up, back), (wide * 0.8, 0.04, long * 0.42)
    stage.put(BOX, *roof, VEHICLE, paint)
    _wheels(stage, wide, 0.32, long * 0.62)
    _lights(stage, wide, 0.7, long)


def _truck(stage: Stage, rng: Generator) -> None:
    """A van, a lorry or a bus."""
    wide, tall, long = rng.uniform(0.95, 1.25), rng.uniform(0.85, 1.45), rng.uniform(2.4, 4.5)
    stage.put(BOX, (0, 0.4 + tall, 0), (wide, tall, long), VEHICLE, _lacquer(rng))
    up = 0.4 + tall * 1.45
    screens = [(wide * 0.85, tall * 0.25, long + 0.03)]
    if rng.random() < 0.5:
        screens.append((wide + 0.02, tall * 0.25, long * 0.9))
    for half in screens:
        stage.put(BOX, (0, up, 0), half, VEHICLE, GLASS, casts=False)
    _wheels(stage, wide, 0.42, long * 0.65)
    _lights(stage, wide, 0.75, long)


def _wheels(stage: Stage, wide: float, radius: float, apart: float) -> None:
    """Those of an axle are one cylinder: what is between them is dark anyway."""
    for z in (-apart, apart):
        stage.put(WHEEL, (0, radius, z), (wide + 0.02, radius, radius), VEHICLE, RUBBER)


def _lights(stage: Stage, wide: float, y: float, long: float) -> None:
    """Those of the end that the camera sees, red behind and white ahead, and a plate."""
    end, colour = (-long, (0.75, 0.08, 0.05))
    if math.cos(stage.yaw) < 0:
        end, colour = (long, (0.9, 0.9, 0.85))
    for x in (-0.78 * wide, 0.78 * wide):
        lamp = (x, y, end), (0.14, 0.08, 0.03)
        stage.put(BOX, *lamp, VEHICLE, Material((colour,)), casts=False)
    plate = (0, y - 0.2, end), (0.26, 0.06, 0.02)
    stage.put(BOX, *plate, VEHICLE, PAINT, casts=False)


# ------------------------------------------------------------------------------------ people
def _person(stage: Stage, rng: Generator) -> None:
    """Somebody who walks along the stage's z axis; one in ten is a child."""
    size = rng.uniform(0.9, 1.08) if rng.random() < 0.9 else rng.uniform(0.6, 0.8)
    here, swing = stage.at(0, 0, size=size), rng.uniform(0, 0.45)
    trousers = Material((tint(rng, (0, 0.6), (0.08, 0.5)),))
    _legs(here, trousers, swing, 0.9)
    if rng.random() < 0.3:
        here.put(SKIRT, (0, 0.82, 0), (0.25, 0.3, 0.18), HUMAN, trousers)
    _body(here.at(0, 0, y=0.88), rng, 0.0, swing)


def _legs(stage: Stage, trousers: Material, swing: float, hips: float) -> None:
    for side in (-1, 1):
        lean = side * swing
        knee = (side * 0.1, hips - 0.45 * math.cos(lean), -0.45 * math.sin(lean))
        stage.put(BALL, knee, (0.1, 0.47, 0.11), HUMAN, trousers, lean=lean)


def _body(stage: Stage, rng: Generator, lean: float, swing: float) -> None:
    """What is above the hips, which are at the stage's origin."""
    skin = Material((near(rng, (0.75, 0.55, 0.43), 0.45),))
    hair = Material((near(rng, (0.22, 0.16, 0.1), 0.8),))
    colours = tint(rng, (0.1, 0.9), (0.15, 0.95)), tint(rng, (0, 0.5), (0.2, 0.9))
    shirt = Material(colours, "bars" if rng.random() < 0.25 else "plain", 3)
    parts = (
        (0.0, 0.26, (0.23, 0.36, 0.16), shirt, lean),
        (-0.27, 0.24, (0.075, 0.34, 0.08), shirt, lean + swing),
        (0.27, 0.24, (0.075, 0.34, 0.08), shirt, lean - swing),
        (0.0, 0.73, (0.115, 0.15, 0.125), skin, 0.0),
        (0.0, 0.79, (0.125, 0.11, 0.13), hair, 0.0),
    )
    for x, up, half, material, tip in parts:
        centre = (x, up * math.cos(lean), up * math.sin(lean))
        stage.put(BALL, centre, half, HUMAN, material, lean=tip)


def _rider(stage: Stage, rng: Generator) -> None:
    """Somebody on a bicycle, along the stage's z axis."""
    frame = Material((tint(rng, (0.3, 0.9), (0.1, 0.8)),))
    for z in (-0.55, 0.55):
        stage.put(WHEEL, (0, 0.36, z), (0.05, 0.36, 0.36), VEHICLE, RUBBER)
    stage.put(BOX, (0, 0.62, 0), (0.06, 0.13, 0.5), VEHICLE, frame)
    stage.put(BOX, (0, 1.0, 0.5), (0.3, 0.04, 0.05), VEHICLE, frame)
    _legs(stage.at(0, 0), Material((tint(rng, (0, 0.6), (0.08, 0.5)),)), 0.35, 1.0)
    _body(stage.at(0, -0.15, y=0.98), rng, 0.35, 0.0)


def _crossing(stage: Stage, rng: Generator, road: float) -> None:
    """A zebra crossing with people on it."""
    z = rng.uniform(7, 16)
    for x in np.arange(-road + 0.6, road, 1.1).tolist():
        stage.put(BOX, (x, 0, z), (0.28, 0.003, 1.6), FLAT, PAINT, casts=False)
    for _ in range(rng.integers(1, 5)):
        here = rng.uniform(-0.9, 0.9) * road, z + rng.uniform(-1.2, 1.2)
        _person(stage.at(*here, math.pi * (rng.integers(2) - 0.5) + rng.normal(0, 0.2)), rng)


# ------------------------------------------------------------------------------------ the car
def _own_car(scene: Scene, tall: float, colour: Array) -> Scene:
    """The camera's own bonnet, and a rim: both ignored and without depth."""
    x, y = pixel_grid(*scene.label.shape)
    inside = (y - 1) / (2 * tall) + 1 - 0.5 * x**2
    bonnet, rim = inside > 0, np.maximum(np.abs(x), np.abs(y)) > 0.985
    gleam = np.clip(0.4 + 1.5 * inside * (1 - np.abs(x)), 0, 1.5)
    image = np.where(bonnet[..., None], colour * gleam[..., None], scene.image)
    void = bonnet | rim
    return Scene(
        image=np.where(rim[..., None], 0.3 * image, image).astype(np.float32),
        label=np.where(void, IGNORED, scene.label),
        depth=np.where(void, np.float32(0), scene.depth),
        normal=np.where(void[..., None], np.float32(0), scene.normal),
    )
