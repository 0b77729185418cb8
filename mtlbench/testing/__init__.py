"""The conformance kit: whether a method, wrapper or task keeps its contract, and what it claims.

In a test-suite of one's own::

    from mtlbench.testing import assert_conforms

    def test_my_method_conforms() -> None:
        assert_conforms("my_pkg.mod:MyMethod")

``mtlbench check my_pkg.mod:MyMethod`` prints the same findings as a table.
"""

from mtlbench.testing.findings import Finding
from mtlbench.testing.kits import assert_conforms, check
from mtlbench.testing.methods import check_method
from mtlbench.testing.tasks import check_task
from mtlbench.testing.wrappers import check_wrapper

__all__ = ["Finding", "assert_conforms", "check", "check_method", "check_task", "check_wrapper"]
