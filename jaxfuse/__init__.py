"""Fusion of multi-modal brain MRI in JAX: five papers, their learning rules, and implicit gradients."""

__version__ = "0.1.0"
