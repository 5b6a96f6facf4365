"""What a network may cost on a device."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from profiles.spec import Fraction, Spec


class Budget(Spec):
    """Limits; each is optional, at least one is set, and each one set is judged.

    `_ratio` limits are shipped / dense. 1 MAC = 2 FLOPs. Latencies in ms are wall time of a batch;
    their ratios are of CPU time, and of wall time where that says nothing (`DeviceProfile.clock`).
    `top1_drop` is the largest loss of the task's metric, as a fraction.
    """

    top1_drop: Annotated[NonNegativeFloat, Field(lt=1)] | None = None
    top1_min: Annotated[PositiveFloat, Field(le=1)] | None = None
    """At least this mean of the task's metric, on the engine that ships."""
    parity_error: PositiveFloat | None = None
    """Largest relative difference of the engine's outputs from its network's."""
    macs: PositiveInt | None = None
    macs_ratio: Fraction | None = None
    parameters: PositiveInt | None = None
    parameters_ratio: Fraction | None = None
    engine_size_mib: PositiveFloat | None = None
    engine_size_ratio: PositiveFloat | None = None
    latency_p50_ms: PositiveFloat | None = None
    latency_p95_ms: PositiveFloat | None = None
    latency_p99_ms: PositiveFloat | None = None
    latency_p50_ratio: PositiveFloat | None = None
    latency_p95_ratio: PositiveFloat | None = None
    frame_p95_ms: PositiveFloat | None = None
    """Of calls at the recipe's `measure.frame_interval_ms`, and not back to back."""
    frame_p99_ms: PositiveFloat | None = None
    first_inference_ms: PositiveFloat | None = None
    """Loading the engine and its first call."""
    peak_memory_mib: PositiveFloat | None = None
    peak_memory_ratio: PositiveFloat | None = None
    steady_memory_mib: PositiveFloat | None = None
    """Resident memory that loading and a few calls leave added to a process."""
    throughput_per_s: PositiveFloat | None = None
    """At least so many samples a second, back to back."""
    energy_mj: PositiveFloat | None = None
    """Of one call, as the machine counts it: RAPL's packages, a Jetson's input rail."""

    @model_validator(mode="after")
    def _has_an_item(self) -> Self:
        if not self.limits():
            raise ValueError(f"a budget needs at least one of: {', '.join(Budget.model_fields)}")
        return self

    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: value for name, value in self if value is not None}
