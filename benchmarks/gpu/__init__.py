"""``make gpu-check`` and ``make gpu-bench``: what is run on a machine with a GPU, with its own Python.

A run is a list of blocks, each in a process of its own with a time limit; the JSON document is written after each
block. See ``docs/gpu.md``.
"""
