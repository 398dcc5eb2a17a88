"""Prints a JSON line: solvers on 2 and 8 host devices, samples and inner variables in parts, beside one device."""

import json
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxfuse.implicit import solvers

jax.config.update("jax_enable_x64", True)

RATES = {"inner": optax.sgd(0.1), "outer": optax.sgd(0.1)}
SERIES = {"learning_rate": 0.1, "inner_steps": 2, "terms": 3}
SOLVERS = {
    "soba": solvers.soba(**RATES),
    "saba": solvers.saba(**RATES, upper_batches=4, lower_batches=4),
    "amigo": solvers.amigo(**RATES, inner_steps=2, system_steps=3),
    "vrbo": solvers.vrbo(**RATES, **SERIES, period=4),
    "bome": solvers.bome(**RATES, inner_steps=2),
    "pzobo": solvers.pzobo(**RATES, inner_steps=2, directions=2),
}


def loss(y, batch):
    logits = batch[0] @ y
    return jnp.mean(jax.nn.softplus(logits) - batch[1] * logits)


def upper(x, y, batch):
    return loss(y, batch)


def lower(x, y, batch):
    return loss(y, batch) + 0.5 * jnp.exp(x) @ y**2


def run(name, devices):
    """The end of 20 steps, and in how many places y lies."""
    rng = np.random.default_rng(0)
    mesh = jax.make_mesh((devices,), ("d",), (AxisType.Auto,), devices=jax.devices()[:devices])
    place = lambda array, *spec: jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    features, labels = rng.normal(size=(4, 16, 24)), rng.integers(0, 2, (4, 16)).astype(float)
    data = (place(features, None, "d"), place(labels, None, "d"))
    x, y = place(np.full(24, -2.0), "d"), place(np.zeros(24), "d")
    solver, key = SOLVERS[name], jax.random.key(0)
    evidence = solver.has_adjoint
    steps = jax.jit(
        lambda x, y, data: solvers.solve(upper, lower, solver, x, y, steps=20, key=key, data=data, evidence=evidence)
    )
    found = steps(x, y, (data, data))
    return np.concatenate([found.x, found.y]), len(found.y.sharding.device_set)


def main():
    found = []
    for name in SOLVERS:
        exact, _ = run(name, 1)
        for devices in (2, 8):
            ends, places = run(name, devices)
            error = float(np.linalg.norm(ends - exact) / np.linalg.norm(exact))
            found.append({"solver": name, "devices": devices, "error": error, "places": places})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
