"""Steps side by side are the steps of each member alone, for a rule with two players, statistics and randomness."""

import itertools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.learning.optim import sgd
from jaxfuse.learning.side_by_side import SideBySide
from jaxfuse.learning.state import Aux, State, create_state, descend, initializer_key
from jaxfuse.learning.system import Geometry
from jaxfuse.nn.conv import conv
from tests.tiny_systems import same

MEMBERS = ("sagittal", "coronal", "axial")
OPTIMIZERS = {
    "upper": sgd(learning_rate=0.1, total_steps=5, momentum=0.9, schedule="cosine"),
    "lower": optax.adam(0.05),
}


@dataclass(frozen=True)
class Duel:
    """Two linear maps of a 3x3 convolution's features; the second follows the first with noise in its input."""

    players = ("upper", "lower")
    geometry = Geometry(2, 1)
    primary = "upper"
    probabilities = ()
    accepts_unpaired = False
    accepts_unlabeled = False
    holds_out = False
    reads_presence = False

    def init(self, rng, batch):
        keys = jax.random.split(initializer_key(rng), 3)
        channels = batch["image"].shape[-1]
        kernel = jax.random.normal(keys[0], (3, 3, channels, 4)) / 5
        params = {
            "upper": {"kernel": kernel, "w": jax.random.normal(keys[1], (4,))},
            "lower": {"w": jax.random.normal(keys[2], (4,))},
        }
        stats = {"upper": {"mean": jnp.zeros(4)}, "lower": {}}
        return create_state(rng, params, OPTIMIZERS, stats=stats, memory={"seen": jnp.zeros(4)})

    def _features(self, upper, image):
        return jnp.tanh(conv(image, upper["kernel"], strides=1, padding=1))

    def train_step(self, state, batch):
        def of_upper(params):
            features = self._features(params, batch["image"])
            mean = 0.9 * state.stats["upper"]["mean"] + 0.1 * features.mean((0, 1, 2))
            loss = jnp.mean((features @ params["w"] - batch["label"]) ** 2)
            return loss, Aux({"mean": mean.sum()}, {"upper": {"mean": mean}}, features)

        state, aux = descend(state, "upper", OPTIMIZERS["upper"], of_upper)
        noise = jax.random.normal(state.key(), aux.values.shape)

        def of_lower(params):
            followed = (aux.values + 0.1 * noise) @ params["w"]
            return jnp.mean((followed - aux.values @ state.params["upper"]["w"]) ** 2), Aux({})

        state, other = descend(state, "lower", OPTIMIZERS["lower"], of_lower)
        memory = {"seen": state.memory["seen"] + noise.mean((0, 1, 2))}
        return replace(state, memory=memory).advance(), {**aux.metrics, **other.metrics}

    def eval_step(self, state, batch):
        return {"upper/loss": jnp.mean((self.predict(state, batch)["upper"] - batch["label"]) ** 2)}

    def predict(self, state, inputs):
        return {"upper": self._features(state.params["upper"], inputs["image"]) @ state.params["upper"]["w"]}

    def networks(self, params):
        return dict(params)


SYSTEM = Duel()
SIDE = SideBySide(SYSTEM, MEMBERS)


def batch_of(member: str, step: int):
    rng = np.random.default_rng([MEMBERS.index(member), step])
    return {"image": rng.normal(size=(2, 6, 5, 3)).astype("f"), "label": rng.normal(size=(2, 6, 5)).astype("f")}


@pytest.fixture(scope="module")
def drawn() -> dict[str, State]:
    keys = jax.random.split(jax.random.key(7), 3)
    return {name: SYSTEM.init(key, batch_of(name, 0)) for key, name in zip(keys, MEMBERS, strict=True)}


@pytest.fixture(scope="module")
def trained(drawn):
    """Four steps of each member alone, and four side by side: ({member: (state, metrics)}, (state, metrics))."""
    step, together = jax.jit(SYSTEM.train_step), jax.jit(SIDE.train_step)
    alone = {}
    for name, state in drawn.items():
        for number in range(4):
            state, metrics = step(state, batch_of(name, number))
        alone[name] = state, metrics
    stacked = SIDE.stack(drawn)
    for number in range(4):
        stacked, metrics = together(stacked, {name: batch_of(name, number) for name in MEMBERS})
    return alone, (stacked, metrics)


def leaves(state: State) -> dict[str, np.ndarray]:
    state = replace(state, rng=jax.random.key_data(state.rng))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def test_a_member_is_what_was_stacked(drawn):
    stacked = SIDE.stack({name: drawn[name] for name in reversed(MEMBERS)})  # by name, not by order
    assert (stacked.step.shape, stacked.params["upper"]["kernel"].shape) == ((), (3, 3, 3, 3, 4))
    for name, state in drawn.items():
        same(leaves(SIDE.member(stacked, name)), leaves(state))


def test_steps_side_by_side_are_those_of_each_member_alone(trained):
    alone, (stacked, metrics) = trained
    assert int(stacked.step) == 4
    for name, (state, own) in alone.items():
        found, wanted = leaves(SIDE.member(stacked, name)), leaves(state)
        assert found.keys() == wanted.keys()
        for leaf, value in wanted.items():
            assert found[leaf].dtype == value.dtype
            np.testing.assert_allclose(found[leaf], value, rtol=2e-5, atol=2e-6, err_msg=f"{name} {leaf}")
        for metric, value in own.items():
            np.testing.assert_allclose(metrics[f"{name}/{metric}"], value, rtol=2e-5)
    assert set(metrics) == {f"{name}/{metric}" for name in MEMBERS for metric in alone["axial"][1]}


def test_members_that_were_trained_differ(trained):
    (stacked, metrics) = trained[1]
    # The noise too: each draws by its own key.
    for values in (stacked.params["upper"]["kernel"], stacked.memory["seen"]):
        for first, second in itertools.combinations(np.asarray(values), 2):
            assert np.abs(first - second).max() > 0.01
    assert len({float(metrics[f"{name}/upper/loss"]) for name in MEMBERS}) == 3


def test_evaluation_is_that_of_each_member_on_its_own_batch(drawn):
    batches = {name: batch_of(name, 9) for name in MEMBERS}
    found = SIDE.eval_step(SIDE.stack(drawn), batches)
    assert found.keys() == {f"{name}/upper/loss" for name in MEMBERS}
    for name, state in drawn.items():
        wanted = jax.jit(SYSTEM.eval_step)(state, batches[name])["upper/loss"]
        np.testing.assert_allclose(found[f"{name}/upper/loss"], wanted, rtol=1e-5)


def test_states_at_several_steps_or_of_others_are_refused(drawn):
    ahead = {**drawn, "coronal": drawn["coronal"].advance()}
    with pytest.raises(ValueError, match=r"at the same step, these are at \[0, 1\]"):
        SIDE.stack(ahead)
    with pytest.raises(ValueError, match="states of .*coronal.* came, and the members are"):
        SIDE.stack({name: drawn[name] for name in MEMBERS[:2]})
