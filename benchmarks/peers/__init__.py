"""The same operations in forms that PyTorch offers: what the operators are measured against."""
