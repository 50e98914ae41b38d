"""Write a bundle: contents, model card, upgrades, Triton repository."""
