"""The package's own names: what they cost and say; tests/test_wheel.py has a type checker look at them."""

import subprocess
import sys

import pytest

import seedvr2_ray as sv


def test_importing_the_package_loads_nothing_that_takes_time():
    heavy = ("torch", "ray", "av", "numpy", "httpx", "pydantic", "PIL", "fastapi")
    code = f"import sys, seedvr2_ray; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_says_what_it_is():
    for name in sv.__all__:
        found = getattr(sv, name)
        assert name == "__version__" or (found.__doc__ or "").strip(), f"{name} has no docstring"
        assert name in dir(sv)


def test_every_public_function_says_what_it_refuses():
    functions = [name for name in sv.__all__ if name.islower() and not name.startswith("__")]
    assert [name for name in functions if "Raises:" not in getattr(sv, name).__doc__] == []


def test_a_name_that_is_none_is_said_as_python_says_it():
    with pytest.raises(AttributeError, match="module 'seedvr2_ray' has no attribute 'restor'"):
        _ = sv.restor
