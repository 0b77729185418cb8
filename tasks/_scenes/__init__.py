"""Generated streets and rooms with exact depth and normals: stand-ins for dense prediction.

Solids are ray-cast, textured, lit and photographed: :mod:`~mtlbench.tasks._scenes.geometry`,
:mod:`~mtlbench.tasks._scenes.textures`, :mod:`~mtlbench.tasks._scenes.render`.
"""

from mtlbench.tasks._scenes.render import Scene
from mtlbench.tasks._scenes.rooms import ROOM_CLASSES, room
from mtlbench.tasks._scenes.streets import STREET_CLASSES, street

__all__ = ["ROOM_CLASSES", "STREET_CLASSES", "Scene", "room", "street"]
