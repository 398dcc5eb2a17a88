"""Choose one penalty per feature of a ridge regression by gradient descent on the validation loss. Run and read me."""

import jax
import jax.numpy as jnp

from jaxfuse import implicit

jax.config.update("jax_enable_x64", True)
# 40 features, of which only the first 5 matter.
keys = jax.random.split(jax.random.key(0), 5)
truth = jnp.zeros(40).at[:5].set(jax.random.normal(keys[0], (5,)))
train, held = jax.random.normal(keys[1], (60, 40)), jax.random.normal(keys[2], (60, 40))
train_answers = train @ truth + jax.random.normal(keys[3], (60,))
held_answers = held @ truth + jax.random.normal(keys[4], (60,))


# The inner problem has weights y as its unknown, given log penalties x ...
def lower(x, y):
    return 0.5 * jnp.mean((train @ y - train_answers) ** 2) + 0.5 * jnp.sum(jnp.exp(x) * y**2)


# ... and the outer one asks how well the solution does on data that it has not seen.
def upper(x, y):
    return 0.5 * jnp.mean((held @ y - held_answers) ** 2)


# Solve the inner problem with whatever you like; here it is linear. The hypergradient never looks inside.
def solve(x):
    return jnp.linalg.solve(train.T @ train / 60 + jnp.diag(jnp.exp(x)), train.T @ train_answers / 60)


x = jnp.full(40, -3.0)
gradient, info = jax.jit(lambda x: implicit.hypergradient(upper, lower, x, solve(x)))(x)
info.check()  # warns, with the reason, if the gradient is not to be trusted
print(f"validation loss {info.value:.4f}; estimator {info.estimator}, converged {bool(info.converged)}")
print(f"true residual {info.residual:.0e}, |d lower/dy| {info.inner_gradient_norm:.0e}")

# Is it right? Central differences of the whole thing, inner solve included, along one direction.
direction = jax.random.normal(jax.random.key(1), (40,))
ahead, behind = (upper(x + h * direction, solve(x + h * direction)) for h in (1e-4, -1e-4))
print(f"slope along a direction: {gradient @ direction:.8f}, by finite differences {(ahead - behind) / 2e-4:.8f}")

# And if the inner problem had not been solved? The gradient is there, and so is the complaint.
_, careless = implicit.hypergradient(upper, lower, x, jnp.zeros(40))
print(f"at y = 0: converged {bool(careless.converged)}; {'; '.join(careless.complaints().values())}")


# Descend. CG starts from the adjoint of the step before, and the whole loop is one compiled program.
def outer_step(carry, _):
    x, adjoint = carry
    estimator = implicit.cg(tolerance=1e-8, start=adjoint)
    gradient, info = implicit.hypergradient(upper, lower, x, solve(x), estimator=estimator)
    return (x - 2.0 * gradient, info.adjoint), (info.value, info.steps, info.converged)


descend = jax.jit(lambda x: jax.lax.scan(outer_step, (x, jnp.zeros(40)), None, length=300))
(x, _), (values, steps, converged) = descend(x)
print(f"validation loss {values[0]:.4f} -> {values[-1]:.4f}, all {len(values)} gradients converged: {converged.all()}")
print(f"CG steps: {steps[0]} in the first outer step, {steps[-1]} in the last, started warm")
print(f"mean log penalty: {x[:5].mean():.2f} of features that matter, {x[5:].mean():.2f} of the others")
