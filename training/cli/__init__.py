"""The command line of `fsae-train`."""
