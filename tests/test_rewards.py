from __future__ import annotations

import numpy as np
import pytest

from stm_rl import StmError
from stm_rl.rewards import DEFAULT_WEIGHTS, Reward, Steps

STEPS = Steps(np.array([2.0, 0.0, -1.0]), np.array([True, False, True]), np.array([2, 0, 1]))


def test_reward_is_the_sum_of_its_weighted_terms() -> None:
    reward, terms = Reward()(STEPS)
    np.testing.assert_allclose(reward, [2 - 0.01 - 0.04, 0, -1 - 0.01 - 0.02])
    np.testing.assert_allclose(sum(terms.values()), reward)
    np.testing.assert_allclose(terms["coherence"], STEPS.gain)
    np.testing.assert_allclose(terms["write_cost"], [-0.01, 0, -0.01])
    np.testing.assert_allclose(terms["read_cost"], [-0.04, 0, -0.02])


def test_weights_can_be_chosen() -> None:
    reward, terms = Reward({"read_cost": 0.5})(STEPS)
    np.testing.assert_allclose(reward, [-1, 0, -0.5])
    assert set(terms) == {"read_cost"}
    assert Reward({})(STEPS)[0].tolist() == [0, 0, 0]


def test_costs_are_small_beside_the_gain() -> None:
    assert all(weight <= 0.05 for name, weight in DEFAULT_WEIGHTS.items() if name.endswith("_cost"))


def test_unknown_term_is_an_error() -> None:
    with pytest.raises(StmError, match="unknown reward term 'praise'; expected one of coherence, "):
        Reward({"coherence": 1.0, "praise": 1.0})
