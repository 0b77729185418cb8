"""A sweep's specification: a YAML file in the words of the command line, and the requests in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from annotated_types import Len
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from mtlbench.engine.numerics import Numerics, Precision
from mtlbench.engine.stream import RowsMode
from mtlbench.errors import UsageError
from mtlbench.interfaces.tasks import GradientScale
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Spec, reference
from mtlbench.runs.spec import RunSpec

SCHEMA = Path(__file__).with_name("sweep.schema.json")
"""For editors: the JSON schema of a specification."""

T = TypeVar("T")
_BRACES = re.compile(r"\{([^{}]*)\}")
_OPTION_IN_BRACES = re.compile(r"[^:,=]+=[^:,{}]*\{[^{}]*\}[^:,]*")


def _each_once(values: list[T]) -> list[T]:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise PydanticCustomError("twice", "{value} is there twice", {"value": repr(twice[0])})
    return values


Words = Annotated[list[str], Len(min_length=1)]
Tasks = Annotated[Words, AfterValidator(_each_once)]
Factors = Annotated[list[PositiveFloat], Len(min_length=1), AfterValidator(_each_once)]
Seeds = Annotated[list[NonNegativeInt], Len(min_length=1), AfterValidator(_each_once)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Grid(_Part):
    """Every method with every wrapper. ``{a,b}`` within a word stands for one word with each.

    Args:
        methods: names with options.
        sharpness: names with options; by default the wrapper that changes nothing.
        lr: of these cells, instead of the protocol's.
        gradient_scale: likewise.
        clip_norm: likewise.
        seeds: of these cells, where they are run with some of the sweep's only.
    """

    methods: Words
    sharpness: Words = Field(default_factory=lambda: [SHARPNESS.default])
    lr: PositiveFloat | None = None
    gradient_scale: GradientScale | None = None
    clip_norm: PositiveFloat | None = None
    seeds: Seeds | None = None

    def cells(self) -> Iterator[tuple[str, str]]:
        """Pairs of a method and a wrapper; a reference method has no wrapper."""
        for method in _expanded(self.methods):
            alone = METHODS.get(Spec.parse(method).name).info.role == "reference"
            for wrapper in [SHARPNESS.default] if alone else _expanded(self.sharpness):
                yield method, wrapper


class Tune(_Part):
    """What is tried for every cell before it is reported: as many trials for each.

    A cell's choices are those of its method's and its wrapper's words here, each with the first of
    ``lr``, as many as make ``trials``. A word here is of the cells that name what it says without
    its options in braces: ``samo:noise=shared,rho={1,2}`` of those with ``samo:noise=shared``.

    Args:
        seeds: of the trials; none that is reported.
        trials: of each cell and seed.
        lr: factors of the protocol's learning rate, the first ones first.
        methods: names with options in braces.
        sharpness: likewise, of wrappers.
    """

    seeds: Seeds
    trials: PositiveInt
    lr: Factors = [1.0]
    methods: list[str] = []
    sharpness: list[str] = []

    def choices(self, method: str, wrapper: str) -> list[tuple[tuple[str, str], float]]:
        """A cell's trials: words of the method and the wrapper, a factor of the learning rate.

        Raises:
            UsageError: there are not as many as every cell has.
        """
        words = list(product(_chosen(method, self.methods), _chosen(wrapper, self.sharpness)))
        factors, rest = divmod(self.trials, len(words))
        if rest or not 1 <= factors <= len(self.lr):
            raise UsageError(
                f"tune: {method} with {wrapper}: {len(words)} choices of options, each with 1 to "
                f"{len(self.lr)} of lr, cannot make the {self.trials} trials that every cell has"
            )
        return [(chosen, factor) for factor in self.lr[:factors] for chosen in words]


class SweepSpec(_Part):
    """What a sweep runs.

    Args:
        tasks: names with options.
        methods: names with options, with each of ``sharpness``.
        sharpness: names with options; by default the wrapper that changes nothing.
        grids: further methods with wrappers of their own, and with a learning rate, a scale and a
            bound of the gradient, and some of the seeds.
        seeds: paired over all cells.
        protocol: of each task; its first by default.
        epochs: instead of the protocol's.
        arch: instead of the protocol's.
        data: folder of the real data set; or one for each task that has one, by name.
        device: "cpu", "cuda", ...
        weights: file of the trunk's initial weights.
        keep_model: whether the selected epochs' weights are kept.
        precision: of the network's passes, like all up to ``deterministic``, which
            :class:`~mtlbench.engine.numerics.Numerics` explains.
        rows: how gradients are held, see :class:`~mtlbench.training.stepper.Stepper`.
        ranks: processes that train each run together, on one machine.
        reference: whether the single-task reference is added, which a table needs.
        equal_time: whole factors: the baseline without a wrapper is also trained for so many times
            the epochs, each a row of its own, for comparisons at equal time.
        tune: what is tried on the validation split, so that cells are reported with what did best.
    """

    tasks: Tasks
    methods: list[str] = []
    sharpness: list[str] = []
    grids: list[Grid] = []
    seeds: Seeds = [0]
    protocol: str | None = None
    epochs: PositiveInt | None = None
    arch: str | None = None
    data: Path | dict[str, Path] | None = None
    device: str | None = None
    weights: Path | None = None
    keep_model: bool = False
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    accumulate: PositiveInt = 1
    deterministic: bool = False
    rows: RowsMode = "auto"
    ranks: PositiveInt = 1
    reference: bool = True
    equal_time: list[PositiveInt] = []
    tune: Tune | None = None

    @classmethod
    def read(cls, path: Path) -> SweepSpec:
        """Read a file.

        Raises:
            UsageError: it cannot be read, or is no specification: which key is wrong, and why.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"{path} cannot be read as YAML: {error}") from error
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: Any, source: str) -> SweepSpec:
        """Check what a file says; ``source`` names it in messages.

        Raises:
            UsageError: see :meth:`read`.
        """
        if not isinstance(content, Mapping):
            raise UsageError(f"{source} is no sweep: expected keys such as tasks, methods, seeds")
        try:
            spec = cls.model_validate(content)
        except ValidationError as error:
            raise UsageError(f"{source}: {_said(error)}") from error
        if not spec.all_grids():
            raise UsageError(f"{source}: nothing to run: give methods, or grids")
        for grid in spec.grids:
            if further := sorted({*(grid.seeds or ())} - {*spec.seeds}):
                raise UsageError(
                    f"{source}: grids: seed {further[0]} is none of the sweep's, which a grid may "
                    f"leave out only; add it to seeds"
                )
        if spec.tune and (both := sorted({*spec.seeds} & {*spec.tune.seeds})):
            raise UsageError(
                f"{source}: tune.seeds: {both[0]} is among the seeds that are reported"
            )
        return spec

    def all_grids(self) -> list[Grid]:
        """Every grid, that of the top level first."""
        own = {"methods": self.methods} | ({"sharpness": self.sharpness} if self.sharpness else {})
        return [*([Grid.model_validate(own)] if self.methods else []), *self.grids]

    def cells(self) -> list[tuple[str, str]]:
        """Methods with wrappers, the reference first where it is added.

        Raises:
            UsageError: a pair occurs twice.
        """
        found = [cell for grid in self.all_grids() for cell in grid.cells()]
        alone = reference()
        if self.reference and alone and alone not in (Spec.parse(m).name for m, _ in found):
            found.insert(0, (alone, SHARPNESS.default))
        unique = dict.fromkeys(found)
        once = {m for m, _ in found if METHODS.get(Spec.parse(m).name).info.role == "reference"}
        twice = [cell for cell in unique if found.count(cell) > 1 and cell[0] not in once]
        if twice:
            method, wrapper = twice[0]
            raise UsageError(
                f"{method} with {wrapper} is in the sweep {found.count(twice[0])} times"
            )
        return list(unique)

    def requests(self) -> list[RunSpec]:
        """Every run, seed by seed, so that an interruption leaves whole seeds."""
        return [
            request
            for task, seed in product(self.tasks, self.seeds)
            for request in self.with_longer(
                [self.request(task, *cell, seed) for cell in self.cells_of[seed]]
            )
        ]

    @cached_property
    def cells_of(self) -> dict[int, list[tuple[str, str]]]:
        """The cells that are run with each seed: all but those of grids without it."""
        cells = self.cells()
        grids = [(grid.seeds or self.seeds, {*grid.cells()}) for grid in self.all_grids()]
        found = {}
        for seed in self.seeds:
            having = {cell for seeds, own in grids if seed in seeds for cell in own}
            lacking = {cell for seeds, own in grids if seed not in seeds for cell in own} - having
            found[seed] = [cell for cell in cells if cell not in lacking]
        return found

    def with_longer(self, requests: Sequence[RunSpec]) -> list[RunSpec]:
        """A task's requests of a seed, and those of the baseline for ``equal_time``."""
        longer = [
            replace(request, epochs=factor * self._epochs(request.task))
            for request in requests
            if METHODS.get(Spec.parse(request.method).name).info.role == "baseline"
            and request.sharpness == SHARPNESS.default
            for factor in self.equal_time
        ]
        return [*requests, *longer]

    def _epochs(self, task: str) -> int:
        info = TASKS.get(Spec.parse(task).name).info
        return self.epochs or info.protocol(self.protocol).epochs

    @property
    def numerics(self) -> Numerics:
        """How the networks' passes are computed."""
        return Numerics(**{name: getattr(self, name) for name in Numerics.model_fields})

    @cached_property
    def _steps(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What the grid of each cell says of its steps."""
        names = ("lr", "gradient_scale", "clip_norm")
        return {
            cell: {name: getattr(grid, name) for name in names}
            for grid in self.all_grids()
            for cell in grid.cells()
        }

    def request(
        self,
        task: str,
        method: str,
        wrapper: str,
        seed: int,
        cell: tuple[str, str] | None = None,
    ) -> RunSpec:
        """A run of a cell, or of a choice of options for one, then given as ``cell``."""
        folder = self.data
        if isinstance(folder, dict):
            folder = folder.get(Spec.parse(task).name)
        return RunSpec(
            task,
            method,
            wrapper,
            seed,
            self.protocol,
            folder,
            self.epochs,
            self.arch,
            self.device,
            self.weights,
            self.keep_model,
            numerics=self.numerics,
            rows=self.rows,
            ranks=self.ranks,
            **self._steps.get(cell or (method, wrapper), {}),
        )


def shard(requests: Sequence[RunSpec], text: str) -> list[RunSpec]:
    """Part i of n, written ``i/n`` with i from 1: every n-th run.

    Raises:
        UsageError: it is not of that form.
    """
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(f"shard {text!r} is not of the form i/n with i from 1 to n, such as 1/4")
    return list(requests[int(match[1]) - 1 :: int(match[2])])


def _chosen(word: str, tuned: Sequence[str]) -> list[str]:
    """What is tried for a cell's method or wrapper; the word itself where nothing is."""
    found = _expanded([each for each in tuned if untuned(each) == Spec.parse(word)])
    return list(dict.fromkeys(found)) or [word]


def untuned(word: str) -> Spec:
    """What a cell says whose choices are those of a word with options in braces."""
    return Spec.parse(_OPTION_IN_BRACES.sub("", word))


def _expanded(words: Sequence[str]) -> list[str]:
    """Words without braces: one for each choice.

    Raises:
        UsageError: braces without a choice, or that do not match.
    """
    found = []
    for word in words:
        choices = [inside.split(",") for inside in _BRACES.findall(word)]
        if any(not choice.strip() for options in choices for choice in options):
            raise UsageError(f"{word!r}: an empty choice; write {{a,b}}")
        gaps = _BRACES.sub("{}", word)
        if {"{", "}"} & set(gaps.replace("{}", "")):
            raise UsageError(f"{word!r}: braces do not match; write {{a,b}}, not one in another")
        found += [gaps.format(*map(str.strip, chosen)) for chosen in product(*choices)]
    return found


def _said(error: ValidationError) -> str:
    """The first thing that is wrong, with the nearest valid key where one is unknown."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        parts: dict[str, type[_Part]] = {"grids": Grid, "tune": Tune}
        part = parts.get(str(first["loc"][0])) if len(first["loc"]) > 1 else None
        fields = (part or SweepSpec).model_fields
        near = get_close_matches(str(first["loc"][-1]), fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(fields)}"
        return f"unknown key {place!r}; {hint}"
    wrong = "" if first["type"] == "twice" else f", not {first['input']!r}"
    return f"{place}: {first['msg']}{wrong}"
