"""Senryu: the compact, fast language model that people run themselves."""

__version__ = "0.1.0"
