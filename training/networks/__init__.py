"""The networks and the linear maps beside them."""
