"""Loading of packages that only some features need."""

import importlib
from types import ModuleType


def import_optional(name: str, purpose: str) -> ModuleType:
    """Import ``name`` or raise ImportError saying what needs it and which extra installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"{purpose} needs the package {package!r}, which cannot be imported ({error}); "
            'install it with: pip install "fourreal-kernels[generate]"'
        ) from error
