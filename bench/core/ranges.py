"""Versions of other programs that this one was tested with: those that its package metadata lets be installed.

Invariant: no range stands in the code, so what is installed and what is refused cannot differ.
"""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = "steer-or-prompt"


def supported(package: str) -> SpecifierSet:
    """The versions of `package` that this project asks for, itself or in an extra; every one where it asks for none, or
    was never installed itself."""
    try:
        asked = map(Requirement, importlib.metadata.requires(PROJECT) or ())
    except importlib.metadata.PackageNotFoundError:
        return SpecifierSet()
    return next((one.specifier for one in asked if one.name == package), SpecifierSet())


def outside(package: str, version: str) -> str:
    """That this version was not tested, and what to install; "" for one that was. Pre-releases count too."""
    wanted = supported(package)
    if wanted.contains(version, prereleases=True):
        return ""
    return f"{package} {version} is outside the tested range: pip install '{package}{wanted}'"
