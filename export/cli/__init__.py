"""The command line of `fsae-export`."""
