"""SSIM, HaarPSI and GMSD from ``piq``, without the part of it that needs torchvision.

``piq`` imports torchvision for measures that use trained networks. Those are not used here, and the
torchvision on the package index does not load beside a torch built for CPUs only.
"""

import sys
from types import ModuleType
from typing import Any


class _StandIn(ModuleType):
    """Has every name that is asked for, each an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # Upper-case names are classes to inherit from, others modules that hold such classes.
        return type(name, (), {}) if name[0].isupper() else _StandIn(name)


def _import_piq() -> Any:
    stand_ins = {name: _StandIn(name) for name in ("torchvision", "torchvision.models")}
    hidden = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        import piq
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return piq


_PIQ = _import_piq()
gmsd, haarpsi, psnr, ssim = _PIQ.gmsd, _PIQ.haarpsi, _PIQ.psnr, _PIQ.ssim
