"""2D images: slices of volumes, and pictures in Kaggle's folders."""
