"""Ways to share that work on any trunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.branching import LTB
from mtlbench.tasks._nets.cross_stitch import cross_stitch
from mtlbench.tasks._nets.experts import DSelectK, cgc, mmoe
from mtlbench.tasks._nets.ple import ple
from mtlbench.tasks._nets.trunk import Trunk

SHARING: Mapping[str, Callable[[Trunk], MultiTaskModel]] = {
    "cross_stitch": cross_stitch,
    "mmoe": mmoe,
    "cgc": cgc,
    "ple": ple,
    "dselect_k": DSelectK,
    "ltb": LTB,
}
"""Architecture to what makes it of the trunk that a protocol's own architecture has."""
