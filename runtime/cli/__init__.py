"""The command line of `fsae-run`: a few lines per command."""
