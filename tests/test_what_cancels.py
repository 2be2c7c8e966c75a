"""Results near 0, of large terms that cancel or of many steps: what rounding leaves there is no mistake.

Each seed refused right code when a budget came from the one entry alone, in which the kernel happened not to round.
"""

import pytest

from graders import find
from graders.batch import Job, grade_each
from graders.catalogue import ROOT

RIGHT = ROOT / "tests" / "right"


@pytest.mark.parametrize(
    ("kata", "path", "check", "seed"),
    [
        ("adam", RIGHT / "adam" / "closures.py", "adam_many_steps", 423),
        ("adam", RIGHT / "adam" / "flat.py", "adam_many_steps", 166),
        ("vae", ROOT / "solutions" / "vae.py", "elbo_edges", 200067),
        ("vae", ROOT / "solutions" / "vae_jax.py", "elbo_edges", 200067),
        ("vae", ROOT / "solutions" / "vae_jax.py", "iwae_edges", 27447),
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_the_size_of_what_cancels_sets_the_budget(kata, path, check, seed):
    kata = find(kata)
    job = Job(path.stem, path.read_text(encoding="utf-8"), seed, check=check)
    ((_, (found,)),) = grade_each(kata, kata.framework_of(path), [job], whole=True)
    assert found.outcome == "passed", found.message
