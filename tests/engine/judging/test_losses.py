from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.losses import losses
from tests.engine.judging.heads import full, predict


def test_losses_judge_no_volume(tmp_path):
    judge = losses(Judged(None, ""))
    assert judge.quick(predict, ()) == {}
    assert full(judge, predict, (), tmp_path) is None
    assert list(tmp_path.iterdir()) == []
