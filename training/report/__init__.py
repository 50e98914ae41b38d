"""The report of a run: one page with tables and pictures of what studies have kept in its folder."""
