"""The paper's comparison in miniature: sequential, hard, soft and fused over one frozen base of single-line videos."""
