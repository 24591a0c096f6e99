"""What ``apply_to`` changed in a model, and how it is changed back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

_RECORD = "_fourreal_installation"
_SYNC = "grid_sync"


class Installation:
    """Changes made to one model, each with its inverse, undone last first.

    Inverses are calls kept as tuples, not closures, so that a deep copy of the model has inverses of its own.

    Args:
        model: the model that is changed.
        mode: of ``apply_to``, for messages.
    """

    def __init__(self, model: nn.Module, mode: str):
        self.model = model
        self.mode = mode
        self._undo: list[tuple[Any, ...]] = []
        setattr(model, _RECORD, self)

    def set_processor(self, attention: nn.Module, processor: Callable) -> None:
        """Give an attention module another processor."""
        self._undo.append((attention.set_processor, attention.processor))
        attention.set_processor(processor)

    def set_forward(self, module: nn.Module, forward: Callable) -> None:
        """Replace the ``forward`` of one module, which stays where it is: its weights keep their names."""
        previous = vars(module).get("forward")
        self._undo.append((delattr, module, "forward") if previous is None else (setattr, module, "forward", previous))
        module.forward = forward

    def set_attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Give an attribute of a module another value."""
        self._undo.append((setattr, module, name, getattr(module, name)))
        setattr(module, name, value)

    def add_hook(self, handle: Any) -> None:
        """Keep the handle of a registered hook."""
        self._undo.append((handle.remove,))

    def freeze(self) -> None:
        """Let no weight that the model has now require a gradient."""
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._undo.append((_require_grad, trainable, True))
        _require_grad(trainable, False)

    def add_sync(self, sync: nn.Module) -> None:
        """Make the synchronisation layers part of the model in all but its state dict."""
        self.model.add_module(_SYNC, sync)
        self._undo.append((delattr, self.model, _SYNC))
        self.add_hook(self.model.register_state_dict_post_hook(_leave_out_sync))
        self.add_hook(self.model.register_load_state_dict_post_hook(_expect_no_sync))

    def undo(self) -> None:
        """Change the model back to what it was."""
        while self._undo:
            function, *arguments = self._undo.pop()
            function(*arguments)
        delattr(self.model, _RECORD)


def _require_grad(parameters: list[nn.Parameter], required: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(required)


def installation_of(model: nn.Module) -> Installation | None:
    """What was applied to ``model``, if anything."""
    return vars(model).get(_RECORD)


def sync_of(model: nn.Module) -> nn.Module | None:
    """The synchronisation layers of ``model``, if it has any."""
    return model._modules.get(_SYNC)


def _leave_out_sync(module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    added = f"{prefix}{_SYNC}."
    for name in [name for name in state_dict if name.startswith(added)]:
        del state_dict[name]


def _expect_no_sync(module: nn.Module, incompatible: Any) -> None:
    kept = [name for name in incompatible.missing_keys if f"{_SYNC}." not in name]
    incompatible.missing_keys[:] = kept
