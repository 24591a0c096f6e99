"""Procedural 4D scenes, pseudo-4D transforms, and video reading and writing."""

from .captions import caption
from .dataset import GridDataset, render_shard
from .geometry import GivenFlow, flow_to_given, pixel_positions, surface_flow, warp
from .prerender import prerender
from .pseudo4d import freeze_time_from_image, homography_flow, homography_path, pseudo_4d
from .renderer import GridRender, render
from .scene_family import SceneFamily, scene_family
from .scene_files import write_scene
from .scenes import HELD_OUT_SEED, Scene, is_held_out, sample_scene
from .stored_grid import GridSample

__all__ = [
    "HELD_OUT_SEED",
    "GivenFlow",
    "GridDataset",
    "GridRender",
    "GridSample",
    "Scene",
    "SceneFamily",
    "caption",
    "flow_to_given",
    "freeze_time_from_image",
    "homography_flow",
    "homography_path",
    "is_held_out",
    "pixel_positions",
    "prerender",
    "pseudo_4d",
    "render",
    "render_shard",
    "sample_scene",
    "scene_family",
    "surface_flow",
    "warp",
    "write_scene",
]
