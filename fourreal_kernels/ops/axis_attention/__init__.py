"""Axis-restricted attention over the grid: one axis, a pointwise axis, or the union of two groups of axes."""
