"""The frozen base of the paper: Kolors' U-Net and VAE."""
