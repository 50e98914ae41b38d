"""The libraries that run the graphs, and the choice between them."""
