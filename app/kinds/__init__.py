"""The kinds of work: every module of this package is loaded, so to add a kind, add a file."""

import importlib
import pkgutil

from kinds.base import Kind


def _discover() -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for kind in [module.KIND] if hasattr(module, "KIND") else getattr(module, "KINDS", []):
            if kind.name in found:
                raise ValueError(f"Two kinds are named {kind.name!r}; rename the one in kinds/{info.name}.py.")
            found[kind.name] = kind
    return found


ALL: dict[str, Kind] = _discover()
