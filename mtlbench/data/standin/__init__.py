"""Stand-in data: generated once in the real data set's layout, then read by the real loader."""

from mtlbench.data.standin.cache import cache_folder, cached, place
from mtlbench.data.standin.generation import generate
from mtlbench.data.standin.manifest import (
    LICENCE,
    MANIFEST,
    Manifest,
    check_manifest,
    checksum,
    plan,
    read_manifest,
)
from mtlbench.interfaces import Common, Recipe

__all__ = [
    "LICENCE",
    "MANIFEST",
    "Common",
    "Manifest",
    "Recipe",
    "cache_folder",
    "cached",
    "check_manifest",
    "checksum",
    "generate",
    "place",
    "plan",
    "read_manifest",
]
