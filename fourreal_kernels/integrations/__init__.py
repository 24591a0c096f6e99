"""The operators inside models that are not of this library. Nothing here is imported by ``import fourreal_kernels``."""
