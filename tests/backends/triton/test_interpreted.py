"""The way of running tests where Triton interprets: what fails there, fails here."""

from __future__ import annotations

import os

import pytest

from backends.triton.interpreted import interpreted


@interpreted
def test_triton_interprets_there() -> None:
    from saccade.runtime.triton import is_interpreted

    assert is_interpreted()


@interpreted
def raising(number: int) -> None:
    raise ValueError(f"given {number}")


@interpreted
def ending() -> None:
    os.write(2, b"the last words\n")
    os._exit(7)


class TestMethods:
    numbers = (1, 2)

    @pytest.mark.parametrize("number", [1, 2])
    @interpreted
    def test_have_their_objects(self, number: int) -> None:
        assert number in self.numbers


def test_what_is_raised_there_is_told_here() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"(?s)in raising.*ValueError: given 3"):
        raising(number=3)


def test_the_end_of_that_process_is_told_and_others_run_on() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"ended \(exit status: 7\):\nthe last words"):
        ending()
    test_triton_interprets_there()
