"""A job as a layout and the units that fill it: in memory, lazily, to a file, in shards or on a cluster."""
