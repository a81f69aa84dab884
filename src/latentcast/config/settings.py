"""The base of all configuration models, and the kinds of numbers they hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Interval = tuple[float, float]


class Settings(BaseModel):
    """Base of all configuration models: immutable, and an unknown key is an error."""

    # Validators are built when the first configuration is read: importing would wait for all.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def divisor_near(number: int, near: int) -> int:
    """The divisor of ``number`` nearest to ``near``: what an error message offers."""
    # 1 is a divisor, so that none beyond 2 near is nearer; it has to do where both are absurd.
    last = min(number, 2 * near)
    divisors = (d for d in range(1, last + 1) if number % d == 0) if last < 2**20 else (1,)
    return min(divisors, key=lambda d: abs(d - near))
