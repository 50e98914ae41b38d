"""The archive codec: chunks of fields in true bytes, with a quality that is asked for and told.

A chunk is anomalies from the climatology, a transform in space and time whose synthesis is integer arithmetic, and
entropy coding with integer tables. It decodes alone, and to the same bits on every machine.
"""
