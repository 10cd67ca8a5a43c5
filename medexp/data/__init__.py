"""Cases, a folder for each kind of data: found, read, checked, described, split by patient, and served to a network.

What all kinds share stands here. A kind has its readers, and modules of the same names for the same things: `cases` (where
the files are and what they hold), `facts` (what is known of a case once it was read, cached), `prepared` (all of it, split,
with its manifest), `transforms` (what a network takes), `datasets` (a split's cases, for torch) and `phantoms` (the embedded
data).
"""
