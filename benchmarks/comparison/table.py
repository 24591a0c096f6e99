"""The comparison as Markdown tables."""

from __future__ import annotations

_HEADS = {
    "psnr": ("PSNR dB", 2),
    "psnr_moving": ("PSNR dB, moving pixels", 2),
    "ssim": ("SSIM", 3),
    "reprojection_view": ("reprojection along views, PSNR dB", 2),
    "warp_time": ("warp along time, PSNR dB", 2),
    "gradient_energy_moving": ("gradient energy", 3),
}


def markdown(result: dict) -> str:
    """Quality with its spread over seeds, trivial predictions and the truth below; then the costs."""
    return f"{_quality(result)}\n\n{_costs(result)}"


def _quality(result: dict) -> str:
    lines = ["| prediction | " + " | ".join(head for head, _ in _HEADS.values()) + " |", "|---" * 7 + "|"]
    for mode, found in result["modes"].items():
        for steps, quality in found["quality"].items():
            cells = [_spread(quality[metric], digits) for metric, (_, digits) in _HEADS.items()]
            lines.append(f"| {mode}, {steps.replace('1 steps', 'one step')} | " + " | ".join(cells) + " |")
    for name, means in result["runs"].items():
        if ", seed " not in name:
            cells = [f"{means[metric]:.{digits}f}" for metric, (_, digits) in _HEADS.items()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(value: dict[str, float], digits: int) -> str:
    return f"{value['mean']:.{digits}f} ± {value['deviation']:.{digits}f}"


def _costs(result: dict) -> str:
    lines = [
        "| mode | parameters | of these beside the base | GFLOP per forward pass | seconds per grid | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for mode, found in result["modes"].items():
        peak = "not known" if found["peak_bytes"] is None else f"{found['peak_bytes'] / 2**20:.0f} MiB"
        lines.append(
            f"| {mode} | {found['parameters'] / 1e6:.2f} M | {found['beside_the_base'] / 1e6:.2f} M | "
            f"{found['flops'] / 1e9:.2f} | {found['seconds']:.2f} | {peak} |"
        )
    return "\n".join(lines)
