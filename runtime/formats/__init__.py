"""File formats of input data: which one a file has, and its dataset, unread."""
