"""A sweep on the disk: its journal, the folder around it, and what is read from them."""
