"""What a grader says of an attempt: each check passes in silence or raises Mismatch."""

from graders.checks.cases import Case, Dims, Scenario
from graders.checks.cost import check_growth
from graders.checks.errors import check_raises
from graders.checks.gradients import check_gradients, check_numerical_gradients
from graders.checks.parity import check_parity
from graders.checks.properties import for_all
from graders.checks.scratch import check_from_scratch
from graders.checks.values import budget, check_dtype, check_play, check_shape, check_values, compare

__all__ = [
    "Case", "Dims", "Scenario", "budget", "check_dtype", "check_from_scratch", "check_gradients", "check_growth",
    "check_numerical_gradients", "check_parity", "check_play", "check_raises", "check_shape", "check_values",
    "compare", "for_all",
]  # fmt: skip
