"""Denoise a grid of V views x T timesteps with Wan in one of the grid modes.

Without arguments a tiny model with random weights runs in seconds on the CPU. With ``--checkpoint`` (a folder or a name
on the Hugging Face hub, for example Wan-AI/Wan2.1-T2V-1.3B-Diffusers) its transformer runs instead, on random latents
and an empty text; a pipeline of diffusers takes the changed transformer as it takes any other (docs/drop-in.md).

    python examples/wan_grid.py --mode fused --views 3 --times 4 --steps 2
"""

from __future__ import annotations

import argparse
import time

import torch

from fourreal_kernels.integrations.diffusers import apply_to, load_sync, remove_from


def tiny_model():
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16, freq_dim=32,
        ffn_dim=96, num_layers=2,
    )


def load_model(checkpoint: str | None, subfolder: str):
    if checkpoint is None:
        return tiny_model()
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel.from_pretrained(checkpoint, subfolder=subfolder or None)


@torch.no_grad()
def denoise(model, latents: torch.Tensor, steps: int) -> torch.Tensor:
    """Euler steps of the rectified flow from noise to latents ``(B, V, C, T, H, W)``."""
    text = latents.new_zeros(latents.shape[0], 16, model.config.text_dim)
    sigmas = torch.linspace(1, 0, steps + 1)
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        timestep = (1000 * sigma).expand(latents.shape[0])
        velocity = model(latents, timestep, text, return_dict=False)[0]
        latents = latents + (following - sigma) * velocity
    return latents


def main(arguments: list[str] | None = None) -> torch.Tensor:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="folder or hub name; a tiny random model when left out")
    parser.add_argument("--subfolder", default="transformer", help="of the checkpoint ('' for none)")
    parser.add_argument("--mode", default="fused", choices=["time", "sequential", "fused", "two_stream"])
    parser.add_argument("--sync", help="synchronisation layers that save_sync wrote, for --mode two_stream")
    for name, default in (("views", 3), ("times", 4), ("height", 8), ("width", 12), ("steps", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    model = load_model(options.checkpoint, options.subfolder).eval()
    apply_to(model, options.mode)
    if options.sync:
        load_sync(model, options.sync)
    shape = (1, options.views, model.config.in_channels, options.times, options.height, options.width)
    started = time.perf_counter()
    grid = denoise(model, torch.randn(shape, generator=torch.Generator().manual_seed(0)), options.steps)
    seconds = time.perf_counter() - started
    print(f"{options.mode}: latents {tuple(grid.shape)} in {seconds:.2f} s, {options.steps} steps")
    remove_from(model)
    return grid


if __name__ == "__main__":
    main()
