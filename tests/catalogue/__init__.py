"""The catalogue: every mod that a suite is run over, with exact arrays.

    from catalogue import CATALOGUE, Sizes

    @pytest.mark.parametrize("case", CATALOGUE, ids=str)
    def test_something(case):
        mods = case.build(Sizes(q_len=33, kv_len=57, heads=4))

Adding a mod to the tests is adding a row to one of the lists gathered here.
"""

from catalogue.case import PICTURED, Case, Mods, Sizes
from catalogue.library_masks import LIBRARY_MASKS
from catalogue.scores import LIBRARY_SCORES, USER_SCORES
from catalogue.user_masks import USER_MASKS

MASK_CASES: list[Case] = LIBRARY_MASKS + USER_MASKS
"""Cases with a mask alone; each has its three pictures."""

SCORE_CASES: list[Case] = LIBRARY_SCORES + USER_SCORES
"""Cases with a score; some have a mask too."""

CATALOGUE: list[Case] = MASK_CASES + SCORE_CASES

__all__ = ["CATALOGUE", "MASK_CASES", "PICTURED", "SCORE_CASES", "Case", "Mods", "Sizes"]
