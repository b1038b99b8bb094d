"""mmalign: align image and video language models so that they stop saying what is not there."""

__version__ = "0.1.0"
