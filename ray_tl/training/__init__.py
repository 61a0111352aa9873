"""Run one trial, in plain PyTorch."""
