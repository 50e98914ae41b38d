"""Write a Triton model repository: a model for each graph of a bundle, and one that draws ensembles."""
