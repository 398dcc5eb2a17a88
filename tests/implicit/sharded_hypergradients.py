"""Hypergradients on host devices against one device; run by test_sharding.py, since the number of devices is fixed
before JAX starts. Prints one JSON list of findings.
"""

import json
import os
from typing import Any

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxfuse import implicit

jax.config.update("jax_enable_x64", True)

UNKNOWNS, SAMPLES = 528, 640  # more unknowns than the default solves densely
ESTIMATORS = {"default": None, "minres": implicit.minres()}
Data = dict[str, Any]


def problem(data: Data, predict: Any = None, total: Any = jnp.sum, average: Any = jnp.mean) -> tuple[Any, Any]:
    """Ridge regression with one log penalty for each weight and an intercept; sums over what is split are arguments."""
    predict = predict or (lambda y: data["rows"] @ y["w"] + y["b"])

    def lower(x: Any, y: Any) -> Any:
        penalty = total(jnp.exp(x["l"]) * y["w"] ** 2)
        return 0.5 * average((predict(y) - data["truth"]) ** 2) + 0.5 * penalty + 0.05 * jnp.sum(y["b"] ** 2)

    upper = lambda x, y: total(0.5 * (y["w"] - data["wanted"]) ** 2 + x["l"] ** 2)
    return upper, lower


def differentiate(functions: tuple[Any, Any], x: Any, y: Any) -> dict[str, tuple[Any, Any]]:
    """Gradient and scalars by each estimator."""
    found = {}
    for name, estimator in ESTIMATORS.items():
        gradient, info = implicit.hypergradient(*functions, x, y, estimator=estimator)
        assert name != "default" or info.estimator == "cg"
        found[name] = gradient, info.scalars()
    return found


def example() -> tuple[Any, Any, Data]:
    rng = np.random.default_rng(0)
    sizes = {"rows": (SAMPLES, UNKNOWNS), "truth": SAMPLES, "wanted": UNKNOWNS}
    data = {name: jnp.asarray(rng.normal(size=size)) for name, size in sizes.items()}
    x = {"l": jnp.asarray(rng.normal(size=UNKNOWNS) * 0.1)}
    _, lower = problem(data)

    @jax.jit
    def solve(x: Any) -> Any:
        slope = jax.grad(lambda v: lower(x, {"w": v[:-1], "b": v[-1]}))
        nothing = jnp.zeros(UNKNOWNS + 1)
        return -jnp.linalg.solve(jax.jacfwd(slope)(nothing), slope(nothing))

    flat = solve(x)
    return x, {"w": flat[:-1], "b": flat[-1]}, data


def by_placement(devices: int, kind: AxisType, x: Any, y: Any, data: Data) -> Any:
    """Parameters and the columns of the data split over one mesh axis, automatic or explicit."""
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        split, whole, columns = (NamedSharding(mesh, spec) for spec in (P("d"), P(), P(None, "d")))
        x = jax.device_put(x, split)
        y = jax.device_put(y, {"w": split, "b": whole})
        data = jax.device_put(data, {"rows": columns, "truth": whole, "wanted": split})

        def run(x: Any, y: Any, data: Data) -> Any:
            predict = None
            if kind == AxisType.Explicit:  # there a product that contracts a split axis must name its result's place
                predict = lambda y: jnp.einsum("an,n->a", data["rows"], y["w"], out_sharding=P()) + y["b"]
            return differentiate(problem(data, predict), x, y)

        return jax.jit(run)(x, y, data)


def model_parallel(devices: int, x: Any, y: Any, data: Data) -> Any:
    """`shard_map`: every device has its weights and its columns of the data."""

    def run(x: Any, y: Any, data: Data) -> Any:
        predict = lambda y: lax.psum(data["rows"] @ y["w"], "d") + y["b"]
        return differentiate(problem(data, predict, total=lambda values: lax.psum(jnp.sum(values), "d")), x, y)

    weights, everything = {"l": P("d")}, P()
    specs = (weights, {"w": P("d"), "b": P()}, {"rows": P(None, "d"), "truth": P(), "wanted": P("d")})
    out = dict.fromkeys(ESTIMATORS, (weights, everything))
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(AxisType.Auto,))
    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=out))(x, y, data)


def data_parallel(devices: int, x: Any, y: Any, data: Data) -> Any:
    """`shard_map`: every device has all weights and its samples."""
    run = lambda x, y, data: differentiate(problem(data, average=lambda values: lax.pmean(jnp.mean(values), "d")), x, y)
    specs = (P(), P(), {"rows": P("d"), "truth": P("d"), "wanted": P()})
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(AxisType.Auto,))
    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P()))(x, y, data)


def few_split_unknowns() -> dict[str, str]:
    """Tells how `dense` answers few unknowns that are known to be split, and the choice of the default."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
    upper, lower = lambda x, y: jnp.sum(y), lambda x, y: jnp.sum(y**2 - x * y)
    with jax.set_mesh(mesh):
        x, y = jnp.array(0.0), jax.device_put(jnp.zeros(8), NamedSharding(mesh, P("d")))
        gradient, info = jax.jit(lambda y: implicit.hypergradient(upper, lower, x, y))(y)
        small = f"{info.estimator} {float(gradient):.6f} {bool(info.converged)}"
        try:
            implicit.hypergradient(upper, lower, x, y, estimator=implicit.dense())
        except ValueError as refused:
            return {"dense": str(refused), "small": small}
    return {"dense": "it was not refused", "small": small}


def main() -> None:
    x, y, data = example()
    reference = jax.jit(lambda x, y: differentiate(problem(data), x, y))(x, y)
    findings = []
    for devices in (2, 8):
        routes = {
            "automatic axis": lambda n=devices: by_placement(n, AxisType.Auto, x, y, data),
            "explicit axis": lambda n=devices: by_placement(n, AxisType.Explicit, x, y, data),
            "shard_map, weights split": lambda n=devices: model_parallel(n, x, y, data),
            "shard_map, data split": lambda n=devices: data_parallel(n, x, y, data),
        }
        for route, run in routes.items():
            for name, (gradient, scalars) in run().items():
                exact = np.asarray(reference[name][0]["l"])
                findings.append(
                    {
                        "devices": devices,
                        "route": route,
                        "estimator": name,
                        "error": float(np.linalg.norm(np.asarray(gradient["l"]) - exact) / np.linalg.norm(exact)),
                        "places": len(gradient["l"].sharding.device_set),
                        "part": list(gradient["l"].sharding.shard_shape(gradient["l"].shape)),
                        "residual": float(scalars["residual"]),
                        "converged": bool(scalars["converged"]),
                    }
                )
    print(json.dumps({"routes": findings, **few_split_unknowns()}))


if __name__ == "__main__":
    main()
