"""Brain volumes in BraTS folders, and labelled tables of them."""
