"""A model as the kernels want it, in a folder: packed once, mapped into memory at load, whole or refused."""
