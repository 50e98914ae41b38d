"""Any CF dataset as nested HEALPix fields."""
