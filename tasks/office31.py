"""Office-31: 31 kinds of things in a shop's pictures and before two cameras."""

from __future__ import annotations

from dataclasses import replace

from mtlbench.interfaces import MetricInfo, TaskInfo
from mtlbench.tasks._office.task import ARCHITECTURES, LIBMTL, MINI, OfficeTask

STYLES = {"amazon": "solid", "dslr": "flat", "webcam": "shaded"}


class Office31(OfficeTask):
    """Objects in three domains, from `"Adapting Visual Category Models to New Domains"
    <https://doi.org/10.1007/978-3-642-15561-1_16>`_, in the protocol of `"LibMTL"
    <https://arxiv.org/abs/2203.14338>`_.

    Without a folder, drawings stand in, as for Office-Home: the two styles with colours for the
    two cameras. Departs from the authors' code as Office-Home does.
    """

    info = TaskInfo(
        name="office31",
        title="Office-31",
        objectives=tuple(STYLES),
        metrics=tuple(MetricInfo(name, name, "%", higher_is_better=True) for name in STYLES),
        protocols=(MINI, replace(LIBMTL, name="paper", version=2)),
        architectures=ARCHITECTURES,
        references=(
            "https://doi.org/10.1007/978-3-642-15561-1_16",
            "https://arxiv.org/abs/2203.14338",
        ),
        licence="Office-31: for research; drawings: see tasks/_data/ATTRIBUTION.md",
        source="https://faculty.cc.gatech.edu/~judy/domainadapt/ links the archive: "
        "PATH/amazon, dslr, webcam, each with images/<class>/*.jpg",
        instead="drawings of 39 classes by icon designers, a stand-in",
    )
    styles = STYLES
