from jaxfuse.models.fuse4seg.make import make_pretraining, make_system
from jaxfuse.models.fuse4seg.unlabeled import make_fusion

__all__ = ["make_fusion", "make_pretraining", "make_system"]
