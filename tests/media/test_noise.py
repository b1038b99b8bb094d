"""The schedule of noise against its recursion and against numbers worked by hand; the draw against its distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmalign.media.noise import MAX_STEPS, Noise, betas

BY_HAND = {
    0: 1.0,
    1: (1 - 1e-5) - (0.005 - 1e-5) / (1 + math.exp(5.988)),
    # The sum of sigmoid(-6 + 0.012 k) for k = 1 to 500, as an integral with half of the ends' difference: 83.333 x
    # (ln 2 - 0.0024757) + (0.5 - 0.0024726) / 2 = 57.8047; of its square, 83.333 x (0.6906715 - 0.4975274) + 0.125 =
    # 16.220. So the betas add up to 0.00499 x 57.8047 + 500 x 0.00001 = 0.293445, their squares to 0.000410, and
    # ln alphabar is -(0.293445 + 0.000205) = -0.293650.
    500: math.exp(-0.293650),
}


@pytest.mark.parametrize("steps", BY_HAND)
def test_worked_by_hand(steps):
    assert Noise(steps, 0).alpha_bar == pytest.approx(BY_HAND[steps], abs=2e-6)


def test_betas_go_from_almost_nothing_to_a_half_percent():
    assert betas().shape == (MAX_STEPS,)
    assert betas()[0] == pytest.approx(1e-5 + 0.00499 / (1 + math.exp(5.988)))
    assert betas()[499] == pytest.approx(1e-5 + 0.00499 / 2), "step 500 is the middle"
    assert betas()[-1] == pytest.approx(1e-5 + 0.00499 / (1 + math.exp(-6)))
    assert (np.diff(betas()) > 0).all()


@pytest.mark.parametrize("steps", [1, 37, 500, 1000])
def test_closed_form_is_the_recursion(steps):
    """Step by step, what is left of the picture and the variance of what was added."""
    signal, variance = 1.0, 0.0
    for k in range(1, steps + 1):
        beta = 1 / (1 + math.exp(-(-6 + 12 * k / 1000))) * (0.5e-2 - 1e-5) + 1e-5
        signal, variance = math.sqrt(1 - beta) * signal, (1 - beta) * variance + beta
    alpha_bar = Noise(steps, 0).alpha_bar
    assert signal == pytest.approx(math.sqrt(alpha_bar), rel=1e-12)
    assert variance == pytest.approx(1 - alpha_bar, rel=1e-9)


def test_draw_is_standard_normal():
    drawn = Noise(500, 7).draw((3, 200, 333)).astype(float).ravel()
    spread = 4 / drawn.size**0.5
    assert abs(drawn.mean()) < spread and abs(drawn.var() - 1) < spread * 2**0.5
    assert (drawn**3).mean() == pytest.approx(0, abs=spread * 15**0.5)
    assert (drawn**4).mean() == pytest.approx(3, abs=spread * 96**0.5)
    assert (np.abs(drawn) < 1).mean() == pytest.approx(math.erf(0.5**0.5), abs=spread / 2)
    half = drawn.size // 2
    for one, other in ((drawn[:-1], drawn[1:]), (drawn[:half], drawn[half:])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 2 * spread


def test_draw_depends_on_seed_and_shape_alone():
    np.random.seed(0)
    first = Noise(500, 2**63 + 5).draw((2, 5))
    np.random.seed(1)
    assert first.dtype == np.float32 and first.shape == (2, 5)
    np.testing.assert_array_equal(Noise(3, 2**63 + 5).draw((2, 5)), first)
    assert not np.isin(Noise(500, 2**63 + 6).draw((100,)), Noise(500, 8).draw((100,))).any()
    assert Noise(1, 1).draw((3,)).shape == (3,) and Noise(1, 2**64 - 1).draw((8,)).std() > 0


@pytest.mark.parametrize("steps", [-1, 1001])
def test_steps_have_a_range(steps):
    with pytest.raises(ValueError, match="from 0 to 1000"):
        Noise(steps, 0)
