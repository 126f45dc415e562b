"""The exception tree: as drawn, as caught by callers who know only builtins, and through pickle."""

from __future__ import annotations

import pickle
import re

import pytest

import saccade
from saccade import errors
from saccade.errors import BackendError, SaccadeError

ALL = [getattr(errors, name) for name in errors.__all__]
REASONS = {"sdpa": ["it has a score_mod", "dropout_p is 0.5"], "cpu": ["query is on cuda"]}


def drawn_tree() -> dict[str, str]:
    """Class name to parent name, read from the drawing in the module's docstring."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for indent, name in re.findall(r"^    ([ │├└─]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE):
        depth = len(indent) // 4
        del above[depth:]
        if above:
            parents[name] = above[-1]
        above.append(name)
    return parents


def test_the_drawing_is_the_tree() -> None:
    assert drawn_tree() == {cls.__name__: cls.__bases__[0].__name__ for cls in ALL if cls is not SaccadeError}


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(saccade.__all__)


@pytest.mark.parametrize("cls", ALL)
def test_each_class_is_a_saccade_error_and_a_builtin(cls: type[SaccadeError]) -> None:
    assert issubclass(cls, SaccadeError)
    assert cls.__doc__
    if cls is not SaccadeError:
        builtin = [base for base in cls.__mro__ if base.__module__ == "builtins"]
        assert builtin[0] not in (Exception, BaseException, object)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ArgumentError, ValueError),
        (errors.ShapeError, ValueError),
        (errors.DTypeError, ValueError),
        (errors.MaskAxisError, ValueError),
        (errors.OperandError, ValueError),
        (errors.OperandError, RuntimeError),
        (errors.ArgumentTypeError, TypeError),
        (errors.ModError, TypeError),
        (errors.ModError, RuntimeError),
        (errors.SettingError, ValueError),
        (errors.TraceError, RuntimeError),
        (errors.ControlFlowError, TypeError),
        (errors.UnsupportedOpError, NotImplementedError),
        (errors.ProgramError, ValueError),
        (errors.IndexOutOfRangeError, IndexError),
        (errors.DivisionByZeroError, ZeroDivisionError),
        (errors.StaleMaskError, RuntimeError),
        (errors.MaskMismatchError, AssertionError),
        (errors.CompilationError, RuntimeError),
        (errors.OutOfResourcesError, RuntimeError),
        (errors.MissingPackageError, ImportError),
        (errors.UnsupportedError, NotImplementedError),
        (BackendError, NotImplementedError),
    ],
)
def test_the_builtin_is_the_one_callers_expect(cls: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls is not BackendError])
def test_errors_survive_pickling(cls: type[SaccadeError]) -> None:
    back = pickle.loads(pickle.dumps(cls("window must be positive, but window=0; pass 1 or more")))
    assert type(back) is cls
    assert str(back) == "window must be positive, but window=0; pass 1 or more"


def test_a_backend_error_shows_every_reason_of_every_backend() -> None:
    error = BackendError("no backend accepts this call.", REASONS, "Pass backend='eager'.")
    assert str(error).splitlines() == [
        "no backend accepts this call.",
        "  sdpa:",
        "    - it has a score_mod",
        "    - dropout_p is 0.5",
        "  cpu: query is on cuda",
        "Pass backend='eager'.",
    ]


def test_a_backend_error_survives_pickling() -> None:
    error = BackendError("no backend accepts this call.", REASONS, "Pass backend='eager'.")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.reasons, back.remedy) == (str(error), REASONS, "Pass backend='eager'.")


def test_a_backend_error_keeps_its_own_copy_of_the_reasons() -> None:
    given = {"sdpa": ["it has a score_mod"]}
    error = BackendError("no backend accepts this call.", given)
    given["sdpa"].append("added later")
    assert error.reasons == {"sdpa": ["it has a score_mod"]}
