"""The program on an NVIDIA GPU."""
