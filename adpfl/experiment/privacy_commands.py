"""What `adpfl epsilon` and `adpfl calibrate` answer, without the command line around it."""

import math
from typing import Any, Final

from adpfl.config import parse
from adpfl.errors import ConfigError
from adpfl.experiment.report.caveat_words import in_words
from adpfl.privacy.calibration import calibrate
from adpfl.privacy.certificate import Certificate, SamplingMode, certify_configuration
from adpfl.privacy.guarantee import IF_FIXED_MEANING, shown_epsilon
from adpfl.privacy.plan import (
    AnyThreshold,
    ExponentialThreshold,
    FixedThreshold,
    NoisyBitsThreshold,
    PercentileThreshold,
    SlackThreshold,
)

THRESHOLD_METHODS: Final = ("fixed", "percentile", "noisy_bits", "slack", "exponential")

_OPTIONS: Final = {
    "percentile": ("--percentile", ("percentile", "noisy_bits", "slack", "exponential")),
    "bit_noise_ratio": ("--bit-noise-ratio", ("noisy_bits",)),
    "epsilon": ("--threshold-epsilon", ("exponential",)),
    "refresh_steps": ("--threshold-refresh-steps", ("exponential",)),
}
"""A threshold's keys that may be given: the option of each, and the methods that have it."""

_ONE_UNIT: Final = "whatever is clipped as one: a patient, or a record"

_REQUIRED: Final = {"exponential": ("epsilon", "refresh_steps")}

_MODELS: Final[dict[str, type[AnyThreshold]]] = {
    "percentile": PercentileThreshold,
    "noisy_bits": NoisyBitsThreshold,
    "slack": SlackThreshold,
    "exponential": ExponentialThreshold,
}


def threshold_of(
    method: str = "fixed",
    *,
    percentile: float | None = None,
    bit_noise_ratio: float | None = None,
    threshold_epsilon: float | None = None,
    refresh_steps: int | None = None,
) -> AnyThreshold:
    """The threshold that options describe.

    Args:
        method: one of `THRESHOLD_METHODS`.
        percentile: which one C follows, where it follows any; the figure is the same for all of them.
        bit_noise_ratio: `noisy_bits`: noise on the bits over the noise multiplier; 2.5 by default.
        threshold_epsilon: `exponential`: pure epsilon of one choice.
        refresh_steps: `exponential`: steps between two choices.

    Raises:
        ConfigError: an option is out of range, missing, or belongs to another method.
    """
    if method not in THRESHOLD_METHODS:
        raise ConfigError(f"--threshold is {method}; must be one of {', '.join(THRESHOLD_METHODS)}")
    values = (percentile, bit_noise_ratio, threshold_epsilon, refresh_steps)
    given = {key: value for key, value in zip(_OPTIONS, values, strict=True) if value is not None}
    for key, value in given.items():
        option, methods = _OPTIONS[key]
        if method not in methods:
            raise ConfigError(
                f"{option} is {value}; goes with --threshold {' or '.join(methods)}, not {method}"
            )
    for key in _REQUIRED.get(method, ()):
        if key not in given:
            raise ConfigError(f"{_OPTIONS[key][0]} is missing; --threshold {method} needs it")
    if method == "fixed":
        return FixedThreshold(method="fixed", clip_norm=1.0)  # the figure does not depend on C
    return _parsed(method, given)


def _parsed(method: str, given: dict[str, Any]) -> AnyThreshold:
    """The threshold of these keys; a value out of range is told by its option."""
    source = "--threshold"
    try:
        return parse({"method": method, **given}, _MODELS[method], source=source)
    except ConfigError as error:
        told = str(error).removeprefix(f"{source}: ")
        key, blank, rest = told.partition(" ")
        raise ConfigError(f"{_OPTIONS[key][0] if key in _OPTIONS else key}{blank}{rest}") from error


def epsilon_answer(
    *,
    mechanism: str,
    noise_multiplier: float,
    dimension: int,
    sampling: SamplingMode,
    sampling_probability: float,
    delta: float,
    steps: int | None = None,
    epochs: int | None = None,
    records_per_patient: int = 1,
    threshold: AnyThreshold | None = None,
    unit_count: int | None = None,
) -> Certificate:
    """Epsilon(delta) of one configuration; see `certify_configuration`.

    With `unit_count`, a caveat says where delta is too large for so few units.

    Raises:
        ConfigError: an option is out of range or contradicts another.
    """
    certificate = certify_configuration(
        mechanism=mechanism,
        noise_multiplier=noise_multiplier,
        dimension=dimension,
        sampling=sampling,
        sampling_probability=sampling_probability,
        delta=delta,
        steps=steps,
        epochs=epochs,
        records_per_patient=records_per_patient,
        threshold=threshold or threshold_of(),
    )
    return _held_against(certificate, unit_count)


def calibration_answer(
    *,
    target_epsilon: float,
    mechanism: str,
    dimension: int,
    sampling: SamplingMode,
    sampling_probability: float,
    delta: float,
    steps: int | None = None,
    epochs: int | None = None,
    records_per_patient: int = 1,
    threshold: AnyThreshold | None = None,
    unit_count: int | None = None,
) -> Certificate:
    """The least noise multiplier whose certified epsilon is at most the target, with its certificate.

    Raises:
        ConfigError: an option is out of range, contradicts another, or no noise reaches the target.
    """
    certificate = calibrate(
        target_epsilon=target_epsilon,
        mechanism=mechanism,
        dimension=dimension,
        sampling=sampling,
        sampling_probability=sampling_probability,
        delta=delta,
        steps=steps,
        epochs=epochs,
        records_per_patient=records_per_patient,
        threshold=threshold or threshold_of(),
    )
    return _held_against(certificate, unit_count)


def _held_against(certificate: Certificate, unit_count: int | None) -> Certificate:
    """The certificate, with a caveat where its delta would allow giving one of so many units away whole."""
    if unit_count is None:
        return certificate
    if unit_count < 1:
        raise ConfigError(f"--units is {unit_count}; must be at least 1")
    if certificate.delta * unit_count < 1.0:
        return certificate
    caveat = (
        f"delta {certificate.delta:g} is not below 1/{unit_count}: it would allow giving one unit away whole"
    )
    return certificate.model_copy(update={"caveats": (*certificate.caveats, caveat)})


def answer_rows(certificate: Certificate) -> tuple[tuple[str, str], ...]:
    """The same answer as a table of (name, value) for a person."""
    of_gradient = certificate.gradient_noise_multiplier
    multiplier = f"{certificate.noise_multiplier:.6g}"
    if of_gradient != certificate.noise_multiplier:
        multiplier += f" ({of_gradient:.6g} on the gradient, beside the noisy bit)"
    rows = [("epsilon", _shown(certificate.epsilon)), ("delta", f"{certificate.delta:g}")]
    if certificate.epsilon_if_fixed is not None:
        rows.append(
            (
                "epsilon_if_fixed",
                f"{_shown(certificate.epsilon_if_fixed)}: {IF_FIXED_MEANING}",
            )
        )
    rows += [
        ("accountant", certificate.accountant),
        ("mechanism", certificate.mechanism),
        ("noise multiplier", multiplier),
        ("dimension", str(certificate.dimension)),
        ("threshold", certificate.threshold),
        ("sampling", f"{certificate.sampling}, probability {certificate.sampling_probability:g}"),
        ("steps", f"{certificate.steps}, of which {certificate.releases} are composed"),
        ("unit", _ONE_UNIT if certificate.records_per_patient == 1 else certificate.unit),
        ("neighbouring relation", certificate.neighboring_relation),
        *(("note", in_words(caveat)) for caveat in certificate.caveats),
    ]
    return tuple(rows)


def _shown(epsilon: float) -> str:
    return "inf" if math.isinf(epsilon) else shown_epsilon(epsilon, digits=6)
