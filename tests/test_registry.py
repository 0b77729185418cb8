"""Names to objects: the written form, what is refused and how, and that nothing is imported before
it is asked for."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import NonNegativeInt, PositiveFloat

from mtlbench import (
    GramianMethod,
    Later,
    MethodInfo,
    SharpnessWrapper,
    Task,
    UsageError,
    WeightingMethod,
    registry,
)
from mtlbench.engine.gramian import Array
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Registry, Spec
from tests.toy_task import TOY, ToyTask

ALL: list[Registry[Any]] = [METHODS, SHARPNESS, TASKS]


class Tilt(WeightingMethod):
    """A method of another package."""

    info: ClassVar = MethodInfo(name="tilt", title="Tilt", year=2026)

    def __init__(
        self, n_tasks: int, *, c: PositiveFloat = 0.5, mode: Literal["a", "b"] = "a"
    ) -> None:
        super().__init__(n_tasks)
        self.c, self.mode = c, mode
        if c > 10 and mode == "b":
            raise ValueError("c must be at most 10 in mode b")


TILT = "tests.test_registry:Tilt"


class OnGramian(GramianMethod):
    """One option of its own and those of its base."""

    info: ClassVar = MethodInfo(name="on_gramian", title="On the Gramian", year=2026)

    def __init__(self, n_tasks: int, *, c: PositiveFloat = 0.5, **common: Any) -> None:
        super().__init__(n_tasks, **common)
        self.c = c

    def solve(self, gramian: Array, losses: Array) -> Array:
        return losses


class Deeper(OnGramian):
    """A third level, with a default of its own for an option of the first."""

    def __init__(
        self, n_tasks: int, *, depth: NonNegativeInt = 1, refresh: NonNegativeInt = 4, **rest: Any
    ) -> None:
        super().__init__(n_tasks, refresh=max(refresh, 1), **rest)
        self.depth = depth


class Inheriting(Deeper):
    """No constructor of its own."""


class Closed(OnGramian):
    """Passes nothing on."""

    def __init__(self, n_tasks: int, *, sharp: bool = True) -> None:
        super().__init__(n_tasks, c=2.0)
        self.sharp = sharp


def _spec(cls: type) -> str:
    return f"tests.test_registry:{cls.__name__}"


# ------------------------------------------------------------------------------------ Spec
@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("ls", "ls", {}),
        ("ls:", "ls", {}),
        ("cagrad:c=0.4", "cagrad", {"c": "0.4"}),
        ("samo:rho=0.1,probe=eval", "samo", {"rho": "0.1", "probe": "eval"}),
        ("samo: rho = 0.1 , mu = 1", "samo", {"rho": "0.1", "mu": "1"}),
        ("tilt:path=a:b", "tilt", {"path": "a:b"}),
        ("tilt:test=a=b", "tilt", {"test": "a=b"}),
        ("pkg.mod:Method", "pkg.mod:Method", {}),
        ("pkg.mod:Method:c=1,d=2", "pkg.mod:Method", {"c": "1", "d": "2"}),
    ],
)
def test_written_forms(text: str, name: str, options: dict[str, str]) -> None:
    spec = Spec.parse(text)
    assert (spec.name, spec.options) == (name, options)
    assert Spec.parse(str(spec)) == spec


def test_an_option_without_a_value() -> None:
    with pytest.raises(UsageError, match=r"'samo:rho=1,mu': 'mu' is not of the form option=value"):
        Spec.parse("samo:rho=1,mu")


# ------------------------------------------------------------------------------------ names
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.kind)
def test_every_name_leads_to_its_class(kind: Registry[Any]) -> None:
    names = kind.names()
    assert names == sorted(set(names))
    assert [kind.get(name).info.name for name in names] == names
    assert not any(name.startswith("_") for name in names)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.kind)
@pytest.mark.parametrize("name", ["nosuch", "", "_solvers", "sharpness"])
def test_an_unknown_name_lists_the_valid_ones(kind: Registry[Any], name: str) -> None:
    with pytest.raises(UsageError) as caught:
        kind.get(name)
    assert str(caught.value) == f"unknown {kind.kind} {name!r}; valid: {', '.join(kind.names())}"


def test_a_class_of_another_package() -> None:
    assert METHODS.get(TILT) is Tilt
    assert TASKS.get(TOY) is ToyTask
    method = METHODS.build(f"{TILT}:c=2,mode=b", 3)
    assert isinstance(method, Tilt)
    assert (method.n_tasks, method.c, method.mode) == (3, 2.0, "b")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch.module:Thing", "no module is named 'nosuch.module'"),
        ("tests.test_registry:Nosuch", "has no attribute 'Nosuch'"),
        ("tests.test_registry:ALL", "is no WeightingMethod but"),
        (TOY, "is no WeightingMethod but"),
    ],
)
def test_a_class_that_is_not_there(name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        METHODS.get(name)
    assert name in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", [":Thing", ".relative:Thing", "tests.test_registry:"])
def test_half_a_class_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        METHODS.get(name)
    assert repr(name) in str(caught.value)


# ------------------------------------------------------------------------------------ options
def test_options_are_resolved_with_their_defaults() -> None:
    assert METHODS.resolve(Spec.parse(TILT)) == (Tilt, {"c": 0.5, "mode": "a"})
    assert METHODS.resolve(Spec.parse(f"{TILT}:c=5e-2")) == (Tilt, {"c": 0.05, "mode": "a"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("d=1", "has no option 'd'; valid: c, mode"),
        ("c=much", "option c=much: Input should be a valid number"),
        ("c=0", "option c=0: Input should be greater than 0"),
        ("mode=c", "option mode=c: Input should be 'a' or 'b'"),
        ("c=11,mode=b", "c must be at most 10 in mode b"),
    ],
)
def test_a_bad_option_is_named(options: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        METHODS.build(f"{TILT}:{options}", 2)
    assert TILT in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (OnGramian, {"c": 0.5, "refresh": 1, "at": "shared"}),
        (Deeper, {"depth": 1, "refresh": 4, "c": 0.5, "at": "shared"}),
        (Inheriting, {"depth": 1, "refresh": 4, "c": 0.5, "at": "shared"}),
        (Closed, {"sharp": True}),
    ],
)
def test_options_of_the_bases_follow_where_a_class_passes_them_on(
    cls: type, options: dict[str, Any]
) -> None:
    resolved = METHODS.resolve(Spec(_spec(cls)))
    assert resolved == (cls, options)
    assert list(resolved[1]) == list(options)
    with pytest.raises(UsageError) as caught:
        METHODS.resolve(Spec(_spec(cls), {"colour": "red"}))
    valid = ", ".join(options)
    assert str(caught.value) == f"method '{_spec(cls)}' has no option 'colour'; valid: {valid}"


def test_options_of_the_bases_reach_them() -> None:
    method = METHODS.build(f"{_spec(Deeper)}:depth=2,refresh=3,c=4,at=representation", 2)
    assert isinstance(method, Deeper)
    assert (method.depth, method.refresh, method.c, method.at) == (2, 3, 4.0, "representation")
    closed = METHODS.build(f"{_spec(Closed)}:sharp=no", 2)
    assert isinstance(closed, Closed)
    assert (closed.sharp, closed.c, closed.refresh) == (False, 2.0, 1)


@pytest.mark.parametrize("name", [*map(_spec, (OnGramian, Deeper, Inheriting)), "mgda", "pcgrad"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("at=here", "Input should be 'shared' or 'representation'"),
        ("refresh=-1", "Input should be greater than"),
        ("refresh=often", "Input should be a valid integer"),
    ],
)
def test_a_bad_value_of_a_bases_option_is_named(name: str, option: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        METHODS.build(f"{name}:{option}", 2)
    assert str(caught.value).startswith(f"method {name!r}: option {option}: {said}")


class Grown(OnGramian):
    """With options that came when there were runs already."""

    def __init__(
        self,
        n_tasks: int,
        *,
        cold: Annotated[bool, Later()] = False,
        turns: Annotated[NonNegativeInt, Later()] = 3,
        **rest: Any,
    ) -> None:
        super().__init__(n_tasks, **rest)
        self.cold, self.turns = cold, turns


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", {}),
        (":cold=false,turns=3", {}),
        (":cold=yes", {"cold": True}),
        (":turns=0", {"turns": 0}),
    ],
)
def test_an_option_that_came_later_tells_runs_apart_where_it_is_used(
    options: str, told: dict[str, Any]
) -> None:
    cls, resolved = METHODS.resolve(Spec.parse(f"{_spec(Grown)}{options}"))
    earlier = METHODS.resolve(Spec(_spec(OnGramian)))[1]
    assert resolved.keys() == {"cold", "turns", *earlier}
    assert registry.identifying(cls, resolved) == earlier | told


def test_an_option_that_is_not_passed_on_is_refused() -> None:
    with pytest.raises(UsageError, match=r"has no option 'refresh'; valid: sharp$"):
        METHODS.build(f"{_spec(Closed)}:refresh=2", 2)


def test_a_method_without_options_says_so() -> None:
    with pytest.raises(UsageError, match="'ls' has no option 'c'; valid: it has none"):
        METHODS.resolve(Spec.parse("ls:c=1"))


def test_an_option_without_its_name_is_no_import_error() -> None:
    with pytest.raises(UsageError, match=r"'cagrad:0\.4'.*option=value"):
        METHODS.resolve(Spec.parse("cagrad:0.4"))


# ------------------------------------------------------------------------------------ entry points
class Entry:
    """An installed package's entry point."""

    def __init__(self, name: str, target: type | Exception) -> None:
        self.name, self.target = name, target

    def load(self) -> type:
        if isinstance(self.target, Exception):
            raise self.target
        return self.target


def with_entries(monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> Registry[Any]:
    """A registry of methods, with these entry points installed."""
    groups = {"mtlbench.methods": entries}
    monkeypatch.setattr(registry, "entry_points", lambda group: groups.get(group, ()))
    return Registry("method", "mtlbench.methods", "mtlbench.methods", "WeightingMethod")


def test_entry_points_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_entries(monkeypatch, Entry("tilt", Tilt))
    assert found.get("tilt") is Tilt
    assert set(found.names()) == {*METHODS.names(), "tilt"}


def test_listing_loads_no_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Entry("tilt", AssertionError("loaded"))
    assert "tilt" in with_entries(monkeypatch, broken).names()


def test_a_missing_optional_dependency_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Entry("tilt", ModuleNotFoundError("No module named 'fancy_solver'"))
    with pytest.raises(UsageError, match=r"'tilt' cannot be imported: .*'fancy_solver'"):
        with_entries(monkeypatch, missing).get("tilt")


def test_an_entry_point_of_the_wrong_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="method 'tilt' is no WeightingMethod but"):
        with_entries(monkeypatch, Entry("tilt", ToyTask)).get("tilt")


# ------------------------------------------------------------------------------------ imports
LAZY = """
import sys, time
start = time.perf_counter()
import mtlbench
seconds = time.perf_counter() - start
from mtlbench.registry import METHODS, SHARPNESS, TASKS
assert TASKS.names() and METHODS.names() and SHARPNESS.names()
heavy = {"torch_geometric", "cvxpy", "torchvision", "torchmetrics", "pandas", "matplotlib"}
print(f"import mtlbench: {seconds:.2f} s", *sorted(heavy & set(sys.modules)), sep="; ")
print(*(m for m in sys.modules if m.startswith(("mtlbench.tasks.", "mtlbench.methods."))))
"""


def test_import_and_listing_are_lazy() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    print(done.stdout)
    heavy, own = done.stdout.splitlines()
    assert ";" not in heavy, heavy
    assert own.split() == ["mtlbench.methods.sharpness"]


@pytest.mark.parametrize(
    ("kind", "base"), [(METHODS, WeightingMethod), (SHARPNESS, SharpnessWrapper), (TASKS, Task)]
)
def test_the_kinds_know_their_base(kind: Registry[Any], base: type) -> None:
    assert all(issubclass(kind.get(name), base) for name in kind.names())
