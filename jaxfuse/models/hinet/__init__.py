from jaxfuse.models.hinet.make import make_system

__all__ = ["make_system"]
