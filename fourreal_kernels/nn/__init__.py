"""Thin modules over the operators."""

from .attention import GridAttention
from .rope import GridRope
from .sync import HardSync, SoftSync
from .two_stream import TwoStreamBlock

__all__ = ["GridAttention", "GridRope", "HardSync", "SoftSync", "TwoStreamBlock"]
