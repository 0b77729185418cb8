"""A ray-caster for convex solids: which one a ray meets first, how far away, and the normal there.

World axes: x right, y up, z forward; metres. Arrays of vectors are (3, n).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mtlbench.tasks._scenes.textures import Array, Material

Index = NDArray[np.int64]
Vector = tuple[float, float, float]

NEAREST = 1e-3
"""Metres in front of the viewer where seeing begins."""


# ------------------------------------------------------------------------------------ shapes
@dataclass(frozen=True)
class Shape:
    """A convex body within the cube [-1, 1]^3.

    Args:
        hit: where rays from one origin (3,) along directions (3, n) enter, in lengths of the
            directions (n,); infinite where they miss or start inside or behind.
        normal: an outward vector (3, n), of any length, at points (3, n) of the surface.
    """

    hit: Callable[[Array, Array], Array]
    normal: Callable[[Array], Array]


def _first(enter: Array, leave: Array) -> Array:
    return np.where((enter < leave) & (enter > NEAREST), enter, np.inf)


def frustum(x: float, z: float) -> Shape:
    """A box whose top face is ``x`` times as wide and ``z`` times as deep as its base: (0, 1) is a
    gable roof, (0, 0) a pyramid."""
    a, c = (1 - x) / 2, (1 - z) / 2
    sides = [[1, a, 0, 1 - a], [-1, a, 0, 1 - a], [0, c, 1, 1 - c], [0, c, -1, 1 - c]]
    planes = np.array([*sides, [0, 1, 0, 1], [0, -1, 0, 1]])
    facing, offset = planes[:, :3].copy(), planes[:, 3:]

    def hit(origin: Array, directions: Array) -> Array:
        speed = facing @ directions
        speed[speed == 0] = -1e-12
        t = (offset - facing @ origin[:, None]) / speed
        inwards = speed < 0
        return _first(np.where(inwards, t, -np.inf).max(0), np.where(inwards, np.inf, t).min(0))

    def normal(points: Array) -> Array:
        outmost: Array = facing.T[:, (facing @ points - offset).argmax(0)]
        return outmost

    return Shape(hit, normal)


def _slab_span(origin: Array, directions: Array) -> tuple[Array, Array]:
    """Where rays enter and leave -1 to 1 along one or several axes."""
    half = 1 / np.where(directions == 0, 1e-12, directions)
    middle = -origin * half
    half = np.abs(half)
    return middle - half, middle + half


def _box_hit(origin: Array, directions: Array) -> Array:
    enter, leave = _slab_span(origin[:, None], directions)
    return _first(enter.max(0), leave.min(0))


def _box_normal(points: Array) -> Array:
    sizes = np.abs(points)
    return np.where(sizes == sizes.max(0), points, 0)


def cylinder(axis: int) -> Shape:
    """A cylinder with flat ends along the axis 0, 1 or 2."""
    across = [k for k in range(3) if k != axis]

    def hit(origin: Array, directions: Array) -> Array:
        below, above = _slab_span(origin[axis], directions[axis])
        enter, leave = _ball_span(origin[across], directions[across])
        return _first(np.maximum(enter, below), np.minimum(leave, above))

    def normal(points: Array) -> Array:
        rim = points.copy()
        rim[axis] = 0
        at_end = np.abs(points[axis]) > np.sqrt((rim**2).sum(0))
        rim[:, at_end] = 0
        rim[axis, at_end] = points[axis, at_end]
        return rim

    return Shape(hit, normal)


def _ball_span(origin: Array, directions: Array) -> tuple[Array, Array]:
    """Where rays enter and leave the unit circle or sphere; nan where they miss it."""
    a = np.einsum("in,in->n", directions, directions)
    b = origin @ directions
    root = np.sqrt(b * b - a * (origin @ origin - 1))
    return (-b - root) / a, (-b + root) / a


BOX = Shape(_box_hit, _box_normal)
GABLE = frustum(0, 1)
COLUMN = cylinder(1)
WHEEL = cylinder(0)
DISC = cylinder(2)
BALL = Shape(lambda origin, rays: _first(*_ball_span(origin, rays)), lambda points: points)


# ------------------------------------------------------------------------------------ solids
@dataclass(frozen=True)
class Solid:
    """A shape in the world.

    Args:
        half: half sizes along its own axes.
        yaw: turn of its own z axis towards x.
        lean: how far its top tips forward, along its own z axis.
        casts: whether it casts a shadow.
    """

    shape: Shape
    centre: Vector
    half: Vector
    yaw: float
    lean: float
    label: int
    material: Material
    casts: bool = True


@dataclass(frozen=True)
class Stage:
    """Where solids are put: a frame of its own somewhere in the world.

    Args:
        solids: every stage made from this one adds to the same list.
        yaw: turn of the frame from z towards x.
        size: of what is put here; a metre of this frame in the world.
    """

    solids: list[Solid] = field(default_factory=list)
    origin: Vector = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    size: float = 1.0

    def at(
        self, x: float, z: float, yaw: float = 0.0, *, y: float = 0.0, size: float = 1.0
    ) -> Stage:
        """A stage in this one's frame."""
        return Stage(self.solids, self.world(x, y, z), self.yaw + yaw, self.size * size)

    def put(
        self,
        shape: Shape,
        centre: Vector,
        half: Vector,
        label: int,
        material: Material,
        *,
        yaw: float = 0.0,
        lean: float = 0.0,
        casts: bool = True,
    ) -> None:
        """Add a solid; ``lean`` tips its top forward."""
        a, b, c = half
        solid = Solid(
            shape=shape,
            centre=self.world(*centre),
            half=(self.size * a, self.size * b, self.size * c),
            yaw=self.yaw + yaw,
            lean=lean,
            label=label,
            material=material,
            casts=casts,
        )
        self.solids.append(solid)

    def world(self, x: float, y: float, z: float) -> Vector:
        """A point of this frame in the world."""
        c, s = self.size * math.cos(self.yaw), self.size * math.sin(self.yaw)
        x0, y0, z0 = self.origin
        return x0 + c * x + s * z, y0 + self.size * y, z0 - s * x + c * z


def turn(yaw: Array | float, pitch: Array | float) -> Array:
    """Rotations (..., 3, 3) that turn z towards x by ``yaw`` and, before, upwards by ``pitch``."""
    c, s, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    zero = np.zeros_like(c)
    rows = [[c, -s * sp, s * cp], [zero, cp, sp], [-s, -c * sp, c * cp]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


@dataclass(frozen=True)
class Placed:
    """Many solids as arrays.

    Args:
        centre: (K, 3).
        axes: the solids' own axes in the world (K, 3, 3), one a row.
        half: half sizes along them (K, 3).
    """

    shapes: Sequence[Shape]
    centre: Array
    axes: Array
    half: Array

    @classmethod
    def of(cls, solids: Sequence[Solid]) -> Placed:
        yaw, lean = np.array([(s.yaw, s.lean) for s in solids]).T
        return cls(
            shapes=[s.shape for s in solids],
            centre=np.array([s.centre for s in solids]),
            axes=turn(yaw, -lean).swapaxes(1, 2),
            half=np.array([s.half for s in solids]),
        )

    def only(self, index: Index) -> Placed:
        """The solids ``index``."""
        shapes = [self.shapes[k] for k in index.tolist()]
        return Placed(shapes, self.centre[index], self.axes[index], self.half[index])


# ------------------------------------------------------------------------------------ views
@dataclass(frozen=True)
class View:
    """From where something is looked at, a camera or a lamp.

    Args:
        axes: rotation (3, 3) from the view's frame, x right, y up, z forward, to the world.
    """

    position: Vector
    axes: Array

    def rays(self, plane: Array) -> Array:
        """World directions (3, n) through points (2, n) of the plane one metre ahead.

        The distance along such a direction is the depth: it counts along the view's z.
        """
        rays: Array = self.axes @ np.concatenate([plane, np.ones((1, plane.shape[1]))])
        return rays

    def project(self, points: Array) -> tuple[Array, Array]:
        """World points (3, n): where their rays pass the plane (2, n), and their depth (n,)."""
        x, y, depth = self.axes.T @ (points - np.array(self.position)[:, None])
        return np.stack([x, y]) / np.where(depth > NEAREST, depth, np.inf), depth


def pixel_grid(height: int, width: int) -> tuple[Array, Array]:
    """Centres of the pixels from -1 to 1: x (1, width) rightwards, y (height, 1) downwards."""
    x = (2 * np.arange(width) + 1) / width - 1
    y = (2 * np.arange(height) + 1) / height - 1
    return x[None, :], y[:, None]


def cast(solids: Placed, view: View, plane: Array) -> tuple[Array, Index]:
    """What the rays of a view through points (2, n) of its plane meet first.

    Returns:
        depth (n,), infinite where nothing is met, and the index (n,) of the solid, -1 there.
    """
    # Sorted by x, the rays that may meet a solid are a slice; nearest solids first, those behind
    # them are soon found to be hidden.
    order = plane[0].argsort(kind="stable")
    x, y = plane[:, order]
    rays = view.rays(plane[:, order])
    inverse = solids.axes / solids.half[:, :, None]
    origin = np.einsum("kij,kj->ki", inverse, np.array(view.position) - solids.centre)
    left, right, low, high, front = _outlines(solids, view)
    starts, ends = np.searchsorted(x, left), np.searchsorted(x, right)
    visible = np.flatnonzero((starts < ends) & (low < y.max()) & (high > y.min()))

    depth, nearest = np.full(x.shape, np.inf), np.full(x.shape, -1)
    with np.errstate(invalid="ignore"):  # the root of a ray that misses a round shape
        for k in visible[front[visible].argsort(kind="stable")].tolist():
            part = slice(starts[k], ends[k])
            chosen = (depth[part] > front[k]) & (y[part] > low[k]) & (y[part] < high[k])
            (meeting,) = chosen.nonzero()
            if not meeting.size:
                continue
            meeting += starts[k]
            t = solids.shapes[k].hit(origin[k], inverse[k] @ rays.take(meeting, 1))
            closer = t < depth[meeting]
            meeting = meeting[closer]
            depth[meeting], nearest[meeting] = t[closer], k

    unsorted = np.empty_like(order)
    unsorted[order] = np.arange(len(order))
    return depth[unsorted], nearest[unsorted]


def _outlines(solids: Placed, view: View) -> tuple[Array, Array, Array, Array, Array]:
    """Of each solid: left, right, lower and upper bound on the plane, and the least depth.

    A solid that reaches behind the viewer may be anywhere on the plane; one that is behind him
    altogether is nowhere.
    """
    corners = np.array(list(product((-1, 1), repeat=3)))
    world = (solids.half[:, None] * corners) @ solids.axes + solids.centre[:, None]
    x, y, depth = np.moveaxis((world - np.array(view.position)) @ view.axes, 2, 0)
    front = depth.min(1)
    across = front[:, None] <= NEAREST
    x, y = (np.where(across, 0, v / np.where(across, 1, depth)) for v in (x, y))
    far = np.where(front <= NEAREST, np.inf, 0)
    far[depth.max(1) <= NEAREST] = -np.inf
    left, right, low, high = x.min(1) - far, x.max(1) + far, y.min(1) - far, y.max(1) + far
    return left, right, low, high, np.maximum(front, NEAREST)


def surface(solids: Placed, index: Index, points: Array) -> tuple[Array, Array, Array]:
    """At points (3, n) of the solids ``index`` (n,): unit normals (3, n), and texture coordinates
    u and v (n,) in metres.

    u and v are the two of the solid's own coordinates across which the surface lies most; v is
    the upright one where there is one.
    """
    axes, half = solids.axes[index], solids.half[index].T
    own = np.einsum("nij,nj->in", axes, points.T - solids.centre[index])

    normals = np.empty_like(points)
    shapes = list(dict.fromkeys(solids.shapes))
    kinds = np.array([shapes.index(shape) for shape in solids.shapes])[index]
    for kind, shape in enumerate(shapes):
        k = np.flatnonzero(kinds == kind)
        normals[:, k] = shape.normal(own[:, k] / half[:, k])
    normals /= half
    normals /= np.sqrt((normals**2).sum(0))

    side, top, front = np.abs(normals)
    level = (top > side) & (top > front)
    u = np.where(~level & (side > front), own[2], own[0])
    v = np.where(level, own[2], own[1])
    return np.einsum("nij,in->jn", axes, normals), u, v
