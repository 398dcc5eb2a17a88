from jaxfuse.models.fuse4seg.make import make_pretraining, make_system

__all__ = ["make_pretraining", "make_system"]
