"""Cases of labelled 4-channel brain volumes: found, checked, described, split by patient, and served to a network."""
