"""Generated faces with CelebA's attributes."""

from mtlbench.tasks._faces.attributes import ATTRIBUTES, draw_attributes
from mtlbench.tasks._faces.face import Look, attributes_of, face, portrait

__all__ = ["ATTRIBUTES", "Look", "attributes_of", "draw_attributes", "face", "portrait"]
