"""Train the synchronisation layers of a frozen Wan by velocity matching on grids, and save them alone.

Without arguments a tiny model with random weights and synthetic latents (a ramp along views and timesteps) runs in
seconds on the CPU. ``--checkpoint`` takes a folder or a name on the Hugging Face hub; ``--latents`` takes a file of
torch.save with a tensor (grids, V, C, T, H, W) in the latent space of that checkpoint.

    python examples/train_sync.py --steps 20 --out sync.safetensors
"""

from __future__ import annotations

import argparse

import torch
from wan_grid import load_model

from fourreal_kernels.integrations.diffusers import apply_to, save_sync, sync_layers


def synthetic_latents(count: int, channels: int) -> torch.Tensor:
    """``(count, 3, channels, 4, 8, 8)``: each grid a slope along views, one along timesteps and one along rows."""
    slopes = torch.randn(3, count, 1, channels, 1, 1, 1)
    axes = (torch.arange(3.0)[:, None, None, None, None], torch.arange(4.0)[:, None, None], torch.arange(8.0)[:, None])
    return sum(slope * axis for slope, axis in zip(slopes, axes, strict=True)).expand(-1, -1, -1, -1, -1, 8) / 4


def velocity_loss(model, clean: torch.Tensor) -> torch.Tensor:
    """Rectified flow: noisy = (1 - sigma) clean + sigma noise, the model answers noise - clean."""
    sigma = torch.rand(clean.shape[0])
    noise = torch.randn_like(clean)
    noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1, 1))
    text = clean.new_zeros(clean.shape[0], 16, model.config.text_dim)
    return (model(noisy, 1000 * sigma, text, return_dict=False)[0] - (noise - clean)).square().mean()


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="folder or hub name; a tiny random model when left out")
    parser.add_argument("--subfolder", default="transformer", help="of the checkpoint ('' for none)")
    parser.add_argument("--latents", help="file of torch.save: (grids, V, C, T, H, W); synthetic when left out")
    parser.add_argument("--kind", default="soft", choices=["soft", "hard"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--out", default="sync.safetensors")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = load_model(options.checkpoint, options.subfolder)
    channels = model.config.in_channels
    latents = torch.load(options.latents, weights_only=True) if options.latents else synthetic_latents(8, channels)
    apply_to(model, "two_stream", sync=options.kind)
    model.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(sync_layers(model).parameters(), lr=options.rate, weight_decay=0.0)
    losses = []
    for step in range(options.steps):
        clean = latents[torch.randint(len(latents), (2,))]
        loss = velocity_loss(model, clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step + 1}: loss {losses[-1]:.4f}")
    save_sync(model, options.out)
    print(f"wrote {options.out}")
    return losses


if __name__ == "__main__":
    main()
