"""Write logistic.json: the posterior of ``target.name logistic`` by a long run of NUTS, by numpyro.

Not part of the tests, and numpyro is no dependency of the project. In an environment of its own:

    pip install numpyro scikit-learn
    PYTHONPATH=. python tests/reference/nuts_logistic.py

A few minutes on two cores. The JSON has means and standard deviations of the coefficients, and the Monte Carlo
error of each: from the effective sample size that numpyro tells, and for standard deviations from how much those of 100
pieces of the chains differ.
"""

import json
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import summary
from numpyro.infer import MCMC, NUTS

from glow.inference.logistic import breast_cancer

NUM_CHAINS, NUM_WARMUP, NUM_SAMPLES, SEED = 4, 5_000, 25_000, 0
PIECES = 100


def model(design, labels):
    coefficients = numpyro.sample("coefficients", dist.Normal(0, 1).expand([design.shape[1]]).to_event(1))
    numpyro.sample("labels", dist.Bernoulli(logits=design @ coefficients), obs=labels)


def main():
    jax.config.update("jax_enable_x64", True)
    features, labels, names = breast_cancer()
    design = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    sampler = MCMC(
        NUTS(model), num_warmup=NUM_WARMUP, num_samples=NUM_SAMPLES, num_chains=NUM_CHAINS, chain_method="sequential"
    )
    sampler.run(jax.random.PRNGKey(SEED), design, labels)
    chains = np.asarray(sampler.get_samples(group_by_chain=True)["coefficients"])
    told = summary({"x": chains})["x"]
    draws = chains.reshape(-1, chains.shape[-1])
    std = draws.std(0, ddof=1)
    pieces = draws.reshape(PIECES, -1, draws.shape[1]).std(1, ddof=1)
    reference = {
        "made_by": f"numpyro {numpyro.__version__}, NUTS, {NUM_CHAINS} chains of {NUM_SAMPLES:,} after {NUM_WARMUP:,}",
        "max_r_hat": float(told["r_hat"].max()),
        "min_effective_samples": float(told["n_eff"].min()),
        "num_divergences": int(sampler.get_extra_fields()["diverging"].sum()),
        "names": ["intercept", *names],
        "mean": draws.mean(0).tolist(),
        "mean_error": (std / np.sqrt(told["n_eff"])).tolist(),
        "std": std.tolist(),
        "std_error": (pieces.std(0, ddof=1) / np.sqrt(PIECES)).tolist(),
    }
    path = Path(__file__).with_name("logistic.json")
    path.write_text(json.dumps(reference, indent=1) + "\n")
    print(path)  # noqa: T201


if __name__ == "__main__":
    main()
