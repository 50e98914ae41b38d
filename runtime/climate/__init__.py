"""Dates, seasons, units and transforms of variables."""
