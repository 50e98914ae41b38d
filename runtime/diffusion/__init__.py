"""The mathematics of drawing: noise, sampler, whitening."""
