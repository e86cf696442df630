"""Compress CT enhancement networks: prune channels, make weights 2:4 sparse, retrain, export."""

__version__ = "0.1.0"
