"""Other people's checkpoints, read without running code from them."""
