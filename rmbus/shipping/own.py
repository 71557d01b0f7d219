"""rmbus itself and the distributions that it requires, as they are installed here, without its extras."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from importlib.metadata import Distribution

OWN: Final = "rmbus"

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_NOT_NEEDED: Final = frozenset({"uv"})  # it makes environments, and nobody imports it in one


def normal(name: str) -> str:
    """Return a distribution's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def own_requirements() -> tuple[str, ...]:
    """Return what rmbus itself requires: it has to run in whatever environment is made."""
    distribution = own_distributions().get(OWN)
    return () if distribution is None else tuple(_stated(distribution))


@functools.cache
def own_distributions() -> Mapping[str, Distribution]:
    """Return rmbus and all that it requires, directly or not, by name; nothing where it is run from its source."""
    import importlib.metadata  # here, because it takes long to import

    found: dict[str, Distribution] = {}
    waiting, seen = [OWN], set(_NOT_NEEDED)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # what is for other platforms
        waiting += _names(_stated(found[name]))
    return found


def dependents(names: Set[str]) -> set[str]:
    """Return those of the distributions that rmbus requires which themselves require one of these."""
    own = own_distributions()
    return {name for name, each in own.items() if name != OWN and not names.isdisjoint(_names(_stated(each)))}


def _stated(distribution: Distribution) -> Iterable[str]:
    return (each for each in distribution.requires or () if not re.search(r"\bextra\s*==", each))


def _names(stated: Iterable[str]) -> list[str]:
    return [normal(found[0]) for each in stated if (found := _NAME.match(each))]
