"""Reference values of the crossed random-effects interval: writes crossed.json beside this file.

    python -m venv .venv/statistics
    .venv/statistics/bin/pip install -r golden/statistics/requirements.txt
    .venv/statistics/bin/python golden/statistics/make.py

Nothing here uses the closed form of results/src/statistics/crossed.rs. The variance components are
REML's, by statsmodels' MixedLM with two crossed variance components, and again by a direct search
over the restricted likelihood of y = mu + seed + question + residual. The standard error is that
of generalised least squares; the degrees of freedom are Satterthwaite's as lmerTest has them,
2 V^2 / (g' A g), with g the gradient of V and A twice the inverse Hessian of the restricted
deviance, both by finite differences. Quantiles and p-values are scipy's.
"""

import json
import pathlib
import warnings

import numpy as np
import pandas as pd
from scipy import optimize, stats
import statsmodels.api as sm


def design(seeds, questions):
    """Incidence matrices of seeds and questions; observations seed by seed."""
    of_seed = np.kron(np.eye(seeds), np.ones((questions, 1)))
    of_question = np.kron(np.ones((seeds, 1)), np.eye(questions))
    return of_seed @ of_seed.T, of_question @ of_question.T


def deviance(theta, y, same_seed, same_question):
    covariance = theta[0] * same_seed + theta[1] * same_question + theta[2] * np.eye(len(y))
    sign, log_det = np.linalg.slogdet(covariance)
    if sign <= 0:
        return 1e12
    ones = np.ones(len(y))
    solved = np.linalg.solve(covariance, np.column_stack([ones, y]))
    information = ones @ solved[:, 0]
    mean = ones @ solved[:, 1] / information
    residual = y - mean
    return log_det + np.log(information) + residual @ (solved[:, 1] - mean * solved[:, 0])


def variance_of_mean(theta, same_seed, same_question):
    size = len(same_seed)
    covariance = theta[0] * same_seed + theta[1] * same_question + theta[2] * np.eye(size)
    return 1.0 / (np.ones(size) @ np.linalg.solve(covariance, np.ones(size)))


def hessian(function, at):
    """Central second differences with one step of Richardson's extrapolation."""

    def plain(scale):
        step = scale * at
        size = len(at)
        found = np.zeros((size, size))
        for i in range(size):
            for j in range(size):
                total = 0.0
                for a in (1, -1):
                    for b in (1, -1):
                        moved = at.copy()
                        moved[i] += a * step[i]
                        moved[j] += b * step[j]
                        total += a * b * function(moved)
                found[i, j] = total / (4 * step[i] * step[j])
        return found

    return (4 * plain(5e-3) - plain(1e-2)) / 3


def case(name, seeds, questions, spread, generator):
    seed = spread[0] * generator.normal(size=(seeds, 1))
    question = spread[1] * generator.normal(size=(1, questions))
    data = 0.02 + seed + question + spread[2] * generator.normal(size=(seeds, questions))
    data = np.round(data, 6)
    y = data.reshape(-1)
    same_seed, same_question = design(seeds, questions)

    frame = pd.DataFrame(
        {
            "y": y,
            "seed": np.repeat(np.arange(seeds), questions),
            "question": np.tile(np.arange(questions), seeds),
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = sm.MixedLM.from_formula(
            "y ~ 1",
            groups=np.ones(len(y)),
            vc_formula={"seed": "0 + C(seed)", "question": "0 + C(question)"},
            data=frame,
        ).fit(reml=True)
    by_name = dict(zip(fitted.model.exog_vc.names, fitted.vcomp))
    start = np.array([by_name["seed"], by_name["question"], fitted.scale])

    scaled = lambda log: deviance(np.exp(log), y, same_seed, same_question)
    found = optimize.minimize(
        scaled, np.log(start), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4000}
    )
    theta = np.exp(found.x)
    assert np.allclose(theta, start, rtol=0.02), (name, theta, start)

    variance = variance_of_mean(theta, same_seed, same_question)
    gradient = np.array(
        [
            (
                variance_of_mean(theta + step, same_seed, same_question)
                - variance_of_mean(theta - step, same_seed, same_question)
            )
            / (2 * step.max())
            for step in np.diag(1e-4 * theta)
        ]
    )
    covariance = 2 * np.linalg.inv(hessian(lambda t: deviance(t, y, same_seed, same_question), theta))
    freedom = 2 * variance**2 / (gradient @ covariance @ gradient)
    value, error = y.mean(), np.sqrt(variance)
    half = stats.t.ppf(0.975, freedom) * error
    return {
        "name": name,
        "data": data.tolist(),
        "value": value,
        "standard_error": error,
        "degrees_of_freedom": freedom,
        "low": value - half,
        "high": value + half,
        "p": 2 * stats.t.sf(abs(value) / error, freedom),
        "seed": theta[0],
        "question": theta[1],
        "residual": theta[2],
    }


def main():
    generator = np.random.default_rng(20260623)
    cases = [
        case("eight seeds", 8, 25, (0.03, 0.15, 0.4), generator),
        case("three seeds", 3, 40, (0.20, 0.20, 0.3), generator),
        case("seeds matter most", 5, 20, (0.5, 0.1, 0.1), generator),
        case("questions matter most", 6, 30, (0.12, 0.6, 0.2), generator),
    ]
    kept = [one for one in cases if min(one["seed"], one["question"]) > 1e-4]
    assert len(kept) == len(cases), "REML at the border: choose other spreads"
    path = pathlib.Path(__file__).with_name("crossed.json")
    path.write_text(json.dumps(kept, indent=1) + "\n")


main()
