"""Captions that are exact by construction: read off a scene's parameters."""

from __future__ import annotations

import math

import torch

from .primitives import KIND_NAMES
from .scenes import COLOURS, Scene
from .textures import TEXTURE_NAMES


def caption(scene: Scene) -> str:
    """One sentence naming every object's colours, texture, shape and motion, and the camera's orbit.

    Directions are those seen in the scene's first view.
    """
    parts = [f"{_appearance(scene, index)} {_motion(scene, index)}" for index in range(scene.objects)]
    degrees = math.degrees(float(scene.orbit_span))
    side = "right" if degrees > 0 else "left"
    return "; ".join([*parts, f"the camera orbits {abs(degrees):.0f} degrees to the {side}"])


def _appearance(scene: Scene, index: int) -> str:
    names = list(COLOURS)
    first, second = (names[colour] for colour in scene.colour[index].tolist())
    article = "an" if first[0] in "aeiou" else "a"
    texture, kind = TEXTURE_NAMES[int(scene.texture[index])], KIND_NAMES[int(scene.kind[index])]
    return f"{article} {first} and {second} {texture} {kind}"


def _motion(scene: Scene, index: int) -> str:
    motion = scene.trajectories
    travels = float(motion.velocity[index].norm()) > 0
    hops = float(motion.hop_height[index]) > 0
    spins = float(motion.spin_angle[index].abs()) > 0
    if travels:
        moving = f"{'hops' if hops else 'slides'} {_direction(scene, index)}"
        return f"spins while it {moving}" if spins else moving
    if hops:
        return "spins while it hops in place" if spins else "hops in place"
    return "spins in place" if spins else "stays still"


def _direction(scene: Scene, index: int) -> str:
    right, _, forward = scene.world_to_camera[0, :3, :2]
    velocity = scene.trajectories.velocity[index]
    across = float(torch.dot(right, velocity))
    along = float(torch.dot(forward / forward.norm(), velocity))
    if abs(across) >= abs(along):
        return "right" if across > 0 else "left"
    return "away from the camera" if along > 0 else "towards the camera"
