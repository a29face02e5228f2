"""Laws of the error tree."""

import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from seedvr2_ray import errors
from seedvr2_ray.errors import DamagedMediaError, InputError, RetryableError, SeedVR2Error


def _tree(root: type[SeedVR2Error] = SeedVR2Error) -> Iterator[type[SeedVR2Error]]:
    if root.__module__ == errors.__name__:
        yield root
    for child in root.__subclasses__():
        yield from _tree(child)


ALL = sorted(_tree(), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", ALL)
def test_every_error_pickles_and_keeps_its_message(cls: type[SeedVR2Error]) -> None:
    error = pickle.loads(pickle.dumps(cls("the limit is 3, got 4; choose fewer")))
    assert type(error) is cls
    assert str(error) == "the limit is 3, got 4; choose fewer"


def _raise_damaged() -> None:
    raise DamagedMediaError("frames 7 to 9 cannot be read")


@pytest.mark.slow
def test_an_error_crosses_a_process_border_unchanged() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool, pytest.raises(DamagedMediaError) as caught:
        pool.submit(_raise_damaged).result()
    assert str(caught.value) == "frames 7 to 9 cannot be read"


@pytest.mark.parametrize("cls", ALL)
def test_every_error_has_an_exit_code_a_shell_can_show(cls: type[SeedVR2Error]) -> None:
    assert 1 <= cls.exit_code <= 125


@pytest.mark.parametrize("cls", ALL)
def test_every_error_says_in_its_docstring_what_it_means(cls: type[SeedVR2Error]) -> None:
    assert cls.__doc__ is not None and cls.__doc__.rstrip().endswith(".")


@pytest.mark.parametrize("cls", ALL)
def test_every_error_stands_in_the_drawing(cls: type[SeedVR2Error]) -> None:
    assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls is not SeedVR2Error])
def test_an_error_is_either_final_or_worth_a_retry_or_the_installations_fault(cls: type[SeedVR2Error]) -> None:
    branches = (InputError, RetryableError, errors.DeploymentError)
    assert sum(issubclass(cls, branch) for branch in branches) == 1


def test_branches_have_exit_codes_of_their_own() -> None:
    codes = [branch.exit_code for branch in (SeedVR2Error, InputError, RetryableError, errors.DeploymentError)]
    assert len(set(codes)) == len(codes)
