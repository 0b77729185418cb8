"""Office-Home: 65 kinds of things in art, clip art, product shots and photographs."""

from __future__ import annotations

from dataclasses import replace

from mtlbench.interfaces import MetricInfo, TaskInfo
from mtlbench.tasks._office.task import ARCHITECTURES, LIBMTL, MINI, OfficeTask

STYLES = {"Art": "line", "Clipart": "flat", "Product": "solid", "Real-World": "shaded"}
PAPER = replace(
    LIBMTL,
    name="paper",
    version=2,
    epochs=50,
    scheduler=("StepLR", {"step_size": 25, "gamma": 0.5}),
    alone={"epochs": 100, "lr": 1e-3, "scheduler": ("StepLR", {"step_size": 50, "gamma": 0.5})},
)


class OfficeHome(OfficeTask):
    """Objects in four domains, from `"Deep Hashing Network for Unsupervised Domain Adaptation"
    <https://arxiv.org/abs/1706.07522>`_. ``paper`` is the protocol of `"SAMO"
    <https://arxiv.org/abs/2507.07883>`_, whose single tasks have one of their own; ``libmtl`` that
    of `"LibMTL" <https://arxiv.org/abs/2203.14338>`_ and of the tables in its manner.

    Without a folder, drawings of things stand in, by designers who draw in one style or several;
    what a designer drew is all in train, all in val or all in test.

    Departs from the authors' code: batches of an epoch are of even sizes and leave out nothing,
    where it drops the last; without its lists in the folder, images are split by their names.
    Nothing is downloaded: both protocols begin with ImageNet's weights, which ``--weights`` gives,
    and a row without them says so.

    Not copied, as released with SAMO: its evaluation goes on through the smaller domains until the
    largest is through, and so counts their first batches twice; and its trainer with SAMO moves the
    shared parameters from the last perturbed point, not from where they were.
    """

    info = TaskInfo(
        name="office_home",
        title="Office-Home",
        objectives=tuple(STYLES),
        metrics=tuple(MetricInfo(name, name, "%", higher_is_better=True) for name in STYLES),
        protocols=(MINI, PAPER, LIBMTL),
        architectures=ARCHITECTURES,
        references=(
            "https://arxiv.org/abs/1706.07522",
            "https://arxiv.org/abs/2203.14338",
            "https://arxiv.org/abs/2507.07883",
        ),
        licence="Office-Home: for research, not for commercial use; drawings: see "
        "tasks/_data/ATTRIBUTION.md",
        source="https://www.hemanthdv.org/officeHomeDataset.html has the archive: "
        "PATH/Art, Clipart, Product, 'Real World', each with a folder of images a class",
        instead="1,137 drawings of 39 classes by icon designers, a stand-in",
    )
    styles = STYLES
