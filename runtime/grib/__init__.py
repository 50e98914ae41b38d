"""GRIB output: the parameter, time, member and grid of a field as the keys of a message, and files of messages."""
