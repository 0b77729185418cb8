"""Office-Home: 65 kinds of things in art, clip art, product shots and photographs."""

from __future__ import annotations

from mtlbench.interfaces import MetricInfo, TaskInfo
from mtlbench.tasks._office.task import ARCHITECTURES, PROTOCOLS, OfficeTask

STYLES = {"Art": "line", "Clipart": "flat", "Product": "solid", "Real-World": "shaded"}


class OfficeHome(OfficeTask):
    """Objects in four domains, from `"Deep Hashing Network for Unsupervised Domain Adaptation"
    <https://arxiv.org/abs/1706.07522>`_, in the protocol of `"LibMTL"
    <https://arxiv.org/abs/2203.14338>`_.

    Without a folder, drawings of things stand in, by designers who draw in one style or several;
    what a designer drew is all in train, all in val or all in test.

    Departs from the authors' code: ``paper`` has 50 epochs and a scheduler, where LibMTL's example
    has 100 at one learning rate; batches of an epoch are of even sizes and leave out nothing, where
    it drops the last; without its lists in the folder, images are split by their names.
    """

    info = TaskInfo(
        name="office_home",
        title="Office-Home",
        objectives=tuple(STYLES),
        metrics=tuple(MetricInfo(name, name, "%", higher_is_better=True) for name in STYLES),
        protocols=PROTOCOLS,
        architectures=ARCHITECTURES,
        references=("https://arxiv.org/abs/1706.07522", "https://arxiv.org/abs/2203.14338"),
        licence="Office-Home: for research, not for commercial use; drawings: see "
        "tasks/_data/ATTRIBUTION.md",
        source="https://www.hemanthdv.org/officeHomeDataset.html has the archive: "
        "PATH/Art, Clipart, Product, 'Real World', each with a folder of images a class",
        instead="1,137 drawings of 39 classes by icon designers, a stand-in",
    )
    styles = STYLES
