"""OCT: volumes of the retina, several of a participant, in a folder or a bucket, with labels in a table beside them."""
