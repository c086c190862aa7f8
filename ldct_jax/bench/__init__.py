"""Speed: training and inference cells, measured beside PyTorch in one run."""
