"""Write a bundle: contents, model card, upgrades."""
