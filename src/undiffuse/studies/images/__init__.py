"""Studies of a trained model of images, one a module."""
