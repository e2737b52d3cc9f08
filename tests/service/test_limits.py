"""The exact refusals of limits, and a bounded number of requests."""

from __future__ import annotations

import pytest

from senryu.errors import SenryuError
from senryu.service.limits import Admission, Limits


def test_output_cap() -> None:
    Limits().check_output(8192, "claude-3-5-haiku-20241022")
    with pytest.raises(SenryuError) as caught:
        Limits().check_output(8193, "claude-3-5-haiku-20241022")
    assert str(caught.value) == (
        "max_tokens: 8193 > 8192, which is the maximum allowed number of output tokens for claude-3-5-haiku-20241022"
    )


def test_context() -> None:
    Limits().room(199_999, 1)
    with pytest.raises(SenryuError, match=r"^prompt is too long: 200001 tokens > 200000 maximum$"):
        Limits().room(200_001, 1)
    with pytest.raises(SenryuError) as caught:
        Limits().room(200_000, 1)
    assert str(caught.value) == (
        "input length and `max_tokens` exceed context limit: 200000 + 1 > 200000, "
        "decrease input length or `max_tokens` and try again"
    )


def test_an_answer_that_may_be_cut_gets_what_is_left() -> None:
    assert Limits().room(100, 8192, cut=True) == 8192
    assert Limits().room(199_990, 8192, cut=True) == 10
    with pytest.raises(SenryuError, match=r"^input length and `max_tokens` exceed context limit: 200000 \+ 5 > 200000"):
        Limits().room(200_000, 5, cut=True)


def test_a_smaller_model_names_its_own_limit() -> None:
    with pytest.raises(SenryuError, match=r"^prompt is too long: 4097 tokens > 4096 maximum$"):
        Limits(context=4096, output=4096).room(4097, 1)


def test_admission_is_bounded_and_gives_places_back() -> None:
    admission = Admission(1)
    with admission.admit(), pytest.raises(SenryuError) as caught, admission.admit():
        pass
    assert (caught.value.status, caught.value.type, str(caught.value)) == (529, "overloaded_error", "Overloaded")
    with admission.admit():
        assert admission.active == 1
    assert admission.active == 0
