from jaxfuse.models.hyperfusion.make import make_system

__all__ = ["make_system"]
