"""What a run, a version or two of them come to, on one page that opens anywhere."""
