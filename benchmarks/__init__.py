"""Benchmarks of the operators, the block and the command line against PyTorch's own forms.

Run with ``fourreal bench`` or ``python -m benchmarks``; see ``docs/benchmarks.md``.
"""
