"""Checks that a bundle is intact and that this machine can run it: `verify` and `doctor`."""
