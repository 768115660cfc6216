"""A search page without a server: a folder of files that any web server sends, and that a browser searches in."""
