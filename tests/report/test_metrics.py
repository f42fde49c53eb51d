"""Fidelity metrics, FGR and CEI against values worked out by hand or with another formula."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from forgec.errors import FidelityError
from forgec.report import metrics

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("reference", "result", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.25], 0.25),
        ([[1.0, -3.0]], [[1.5, -3.0]], 0.5),
        ([], [], 0.0),
        ([True, False], [True, True], 1.0),
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([INF, 1.0], [INF, 1.0], 0.0),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([NAN, 1.0], [0.0, 1.0], INF),
        ([0.0, 1.0], [NAN, 1.0], INF),
    ],
)
def test_max_abs(reference, result, expected):
    assert metrics.max_abs(reference, result) == expected


def test_max_abs_of_unsigned_integers_does_not_wrap():
    assert metrics.max_abs(np.array([1], np.uint8), np.array([3], np.uint8)) == 2.0


def test_kl_by_hand():
    # softmax([0, ln 3]) = [1/4, 3/4] against softmax([0, 0]) = [1/2, 1/2].
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert metrics.kl_divergence([0.0, math.log(3)], [0.0, 0.0]) == pytest.approx(expected, rel=1e-14)


def test_kl_is_the_mean_over_rows_and_not_symmetric():
    one = [[0.0, math.log(3)]]
    equal = [[0.0, 0.0]]
    single = metrics.kl_divergence(one, equal)
    assert metrics.kl_divergence(one + equal, equal + equal) == pytest.approx(single / 2, rel=1e-14)
    assert metrics.kl_divergence(equal, one) != pytest.approx(single, rel=0.05)


@pytest.mark.parametrize(
    ("reference", "result", "expected"),
    [
        ([0.0, 1.0], [5.0, 6.0], 0.0),
        ([0.0, -INF], [0.0, -INF], 0.0),
        ([0.0, 0.0], [0.0, -INF], INF),
        ([NAN, 0.0], [NAN, 0.0], 0.0),
        ([NAN, 0.0], [1.0, 0.0], INF),
        ([1.0, 0.0], [NAN, 0.0], INF),
        ([-INF, -INF], [-INF, -INF], 0.0),
        ([1e4, -1e4], [1e4, -1e4], 0.0),
        ([], [], 0.0),
        (3.0, 4.0, 0.0),
    ],
)
def test_kl_of_special_values(reference, result, expected):
    assert metrics.kl_divergence(reference, result) == pytest.approx(expected, abs=1e-15)


@given(st.integers(0, 2**32 - 1))
def test_kl_matches_scipy_and_is_not_negative(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 5, (2, 3, 7)), rng.normal(0, 5, (2, 3, 7))
    expected = rel_entr(softmax(a, axis=-1), softmax(b, axis=-1)).sum(-1).mean()
    assert metrics.kl_divergence(a, b) == pytest.approx(expected, rel=1e-10)
    assert metrics.kl_divergence(a, a + 1e-17) >= 0.0


def test_kl_in_pieces_equals_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(11, 5)), rng.normal(size=(11, 5))
    whole = metrics.kl_divergence(a, b)
    monkeypatch.setattr(metrics, "_ROW_ELEMENTS", 10)
    assert metrics.kl_divergence(a, b) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("reference", "result", "expected"),
    [
        ([1.0, 0.0], [1.0, 1.0], math.sqrt(0.5)),
        ([1.0, 2.0], [-2.0, -4.0], -1.0),
        ([0.0, 0.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [0.0, 1.0], 0.0),
        ([1e200, 1e200], [1e200, 1e200], 1.0),
        ([1e-200, 0.0], [1e-200, 0.0], 1.0),
        ([], [], 1.0),
    ],
)
def test_cosine(reference, result, expected):
    assert metrics.cosine(reference, result) == pytest.approx(expected, rel=1e-14)


def test_sqnr():
    # Signal 1 + 4 = 5, noise 0.1^2 + 0.2^2 = 0.05: a factor of 100 is 20 dB.
    assert metrics.sqnr_db([1.0, 2.0], [1.1, 2.2]) == pytest.approx(20.0, rel=1e-12)
    assert metrics.sqnr_db([1.0], [1.0]) == INF
    assert metrics.sqnr_db([0.0], [1.0]) == -INF
    assert metrics.sqnr_db([1.0], [NAN]) == -INF


def test_difference_works_in_float64():
    a = np.array([[4096.0, 1.0]], ml_dtypes.bfloat16)
    b = np.array([[4096.0, 1.5]], ml_dtypes.bfloat16)
    assert metrics.difference(a, b).max_abs == 0.5
    assert metrics.difference(np.float16([60000.0]), np.float16([-60000.0])).max_abs == 120000.0


def test_integers_have_no_divergence():
    assert metrics.difference([1, 2], [2, 1]).kl == 0.0
    assert metrics.difference([1.0, 2.0], [2.0, 1.0]).kl > 0.1


def test_shapes_must_agree():
    with pytest.raises(FidelityError, match=r"logits has shape \[2, 1\], its reference \[1, 2\]"):
        metrics.difference(np.zeros((1, 2)), np.zeros((2, 1)), "logits")


def test_fidelity_takes_the_worst_of_every_output():
    references = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 2.0])}
    results = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 2.5])}
    found = metrics.fidelity(references, results, reference="r", inputs="i")
    alone = metrics.difference(references["b"], results["b"])
    assert (found.max_abs, found.kl, found.sqnr_db) == (alone.max_abs, alone.kl, alone.sqnr_db)
    assert not found.passed
    assert metrics.fidelity(references, references, reference="r", inputs="i").passed


@pytest.mark.parametrize(
    ("bound_max_abs", "bound_kl", "passed"), [(0.5, 1.0, True), (0.49, 1.0, False), (0.5, 1e-9, False)]
)
def test_both_bounds_count_and_are_inclusive(bound_max_abs, bound_kl, passed):
    found = metrics.fidelity(
        {"a": [0.0, 1.0]},
        {"a": [0.0, 1.5]},
        reference="r",
        inputs="i",
        bound_max_abs=bound_max_abs,
        bound_kl=bound_kl,
    )
    assert found.passed is passed


def test_nan_never_passes_and_reaches_the_result():
    good, bad = {"a": [1.0], "b": [1.0, 2.0]}, {"a": [1.0], "b": [1.0, NAN]}
    found = metrics.fidelity(good, bad, reference="r", inputs="i", bound_max_abs=1e300, bound_kl=1e300)
    assert not found.passed
    assert math.isnan(found.cosine)


def test_outputs_must_be_the_same():
    with pytest.raises(FidelityError, match=r"\['b'\].*\['a'\]"):
        metrics.fidelity({"a": [1.0]}, {"b": [1.0]}, reference="r", inputs="i")


def test_fgr_and_cei():
    assert metrics.fgr(12.0, 8.0) == 1.5
    assert metrics.fgr(0.0, 0.0) == 1.0
    # Forge-UGC's GPT-2 row over OpenVINO: 8.45 ms / 6.82 ms in 1.0 s of compiling.
    assert metrics.cei(8.45 / 6.82, 1.0) == pytest.approx(1.239, abs=5e-4)
    assert metrics.cei(2.0, 4.0) == 0.5
