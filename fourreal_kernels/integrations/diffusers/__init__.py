"""The operators inside video diffusion models of the diffusers library.

``apply_to(model, mode, ...)`` changes a model in place, ``remove_from(model)`` changes it back. No weight is renamed.
"""

from .api import apply_to, remove_from
from .sync_layers import SyncLayers, load_sync, save_sync, sync_layers

__all__ = ["SyncLayers", "apply_to", "load_sync", "remove_from", "save_sync", "sync_layers"]
