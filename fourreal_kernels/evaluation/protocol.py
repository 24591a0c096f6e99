"""Choices of the evaluation that the paper does not publish. They are printed and stored with every result."""

from __future__ import annotations

PROTOCOL = (
    "The paper's protocol (number of clips, sampling of frames, pairing, averaging) is not published: every choice "
    "here is ours.",
    "Scenes: consecutive held-out seeds of one family; means are over scenes.",
    "Image metrics: the frames that the fixed cross does not give.",
    "Geometry: neighbouring frames, pairs of two given frames left out; pixels within one pixel of another surface "
    "left out; the truth is measured on the same pairs.",
    "Frechet distances and KID: predictions of one half of the scenes against the truth of the other half, mean of "
    "both ways round; the floor is truth against truth of the same halves. Given frames are part of the clips.",
    "Lines: time lines = every view over time; view lines = every timestep over views; diagonals = the two from "
    "corner to corner; whole grid = one clip, views in turn, time forth and back. FVD-F, FVD-V, FVD-Diag and FV4D are "
    "the field's names of these four with I3D.",
    "KID: over all clips, not over random subsets.",
)
