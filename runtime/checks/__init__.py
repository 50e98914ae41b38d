"""Whether a bundle is intact and this machine can run it: `verify` and `doctor`."""
