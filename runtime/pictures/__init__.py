"""Pictures of files of fields: maps, statistics over members, series of the global mean, angular power spectra."""

MAPS, CURVES = ("map", "mean", "spread"), ("series", "spectrum")
PANELS = (*MAPS, *CURVES)
PROJECTIONS = ("robinson", "orthographic", "plate-carree")
