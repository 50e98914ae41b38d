"""Generation of ensembles: members drawn from the diffusion model, their forcing, initial state and statistics."""
