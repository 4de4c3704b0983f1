"""Answers the optimiser's question: reads the curves, and solves. Loaded in its process alone."""

import asyncio
from collections.abc import Callable
from decimal import Decimal

import asyncpg
import numpy as np

from services.portfolio.allocation.limits import Vector
from services.portfolio.allocation.policies import Problem, solve
from services.portfolio.allocation.request import Answer, Question, Request
from services.portfolio.domain.capital import Bound
from services.portfolio.storage.address import AWAY, Address
from services.portfolio.storage.curves import Curves, read_curves

SETTINGS = {
    "application_name": "efficientfrontier-portfolio-optimiser",
    "default_transaction_read_only": "on",
    "statement_timeout": "60s",
}


def answer(question: Question) -> Answer:
    """The solution, or what stands in its way."""
    try:
        curves = asyncio.run(_read(question))
    except (*AWAY, asyncpg.PostgresError) as error:
        return Answer(
            reason="DATABASE_UNAVAILABLE",
            message="The optimiser cannot read the strategies' curves from the database "
            f"({type(error).__name__}). Nothing was moved; repeat the call.",
        )
    return Answer(solve(problem_of(question.request, curves)))


async def _read(question: Question) -> Curves:
    request = question.request
    connection = await Address(question.database_url).connect(SETTINGS)
    try:
        return await read_curves(
            connection, request.mode, list(request.current), request.policy.lookback_days
        )
    finally:
        connection.terminate()  # it has read; a goodbye would be one more wait


def problem_of(request: Request, curves: Curves) -> Problem:
    """The problem that a request poses on these curves."""
    policy, names = request.policy, curves.names
    bounds = {bound.strategy_name: bound for bound in policy.bounds}

    def each(figure: Callable[[Bound], Decimal]) -> Vector:
        return np.array([float(figure(bounds.get(name) or Bound(name))) for name in names])

    return Problem(
        method=policy.method,
        fallback=policy.fallback,
        names=names,
        returns=curves.returns,
        current=np.array([float(request.current[name]) for name in names]),
        lower=each(lambda bound: bound.min_weight),
        upper=each(lambda bound: bound.max_weight),
        fixed=each(lambda bound: bound.fixed_weight),
        cash_floor=float(policy.cash_floor),
        max_turnover=None if policy.max_turnover is None else float(policy.max_turnover),
        min_days=policy.min_days,
        frontier_points=request.frontier_points,
    )
