"""The exchange with what surrounds it in a DiT block: gated residual before, adaLN LayerNorm after."""
