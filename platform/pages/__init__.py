"""Parts that all pages and the terminal share."""
