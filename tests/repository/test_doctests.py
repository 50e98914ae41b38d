"""Every example in a docstring gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

import fsae.export
import fsae.runtime
import fsae.training

PACKAGES = (fsae.runtime, fsae.training, fsae.export)
MODULES = [package.__name__ for package in PACKAGES]
MODULES += [
    found.name for package in PACKAGES for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


def test_the_examples_are_found() -> None:  # oracle: examples that are known to be there
    assert {"fsae.runtime.sphere.healpix", "fsae.training.networks.halo", "fsae.export.cli.main"} <= set(MODULES)
    finder = doctest.DocTestFinder()
    for name in ("fsae.runtime.sphere.healpix", "fsae.export.cli.main"):
        assert any(test.examples for test in finder.find(importlib.import_module(name)))


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name: str) -> None:  # oracle: the text of each example
    assert doctest.testmod(importlib.import_module(name)).failed == 0
