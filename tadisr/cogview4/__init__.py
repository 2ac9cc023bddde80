"""The frozen base of the authors' second release: CogView4's transformer and VAE."""
