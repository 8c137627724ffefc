"""How a data set is dealt to sites: the choices, without files."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from adpfl.config import FrozenModel

Covariate = Literal["source", "lesion_size"]


class PartitionPlan(FrozenModel):
    """Which patients go to which site. Patients are never divided, and every site gets at least two."""

    method: Literal["equal", "source", "dirichlet", "quantity"] = "equal"
    """`equal`: near-equal numbers of patients. `source`: one site for each institution that the data set or
    `table` names. `dirichlet`: each stratum of `covariate` is spread over the sites in its own proportions.
    `quantity`: sites differ in their number of patients alone."""
    concentration: PositiveFloat = 0.5
    """`dirichlet` and `quantity`: of the symmetric Dirichlet distribution; small is skewed, large is even."""
    covariate: Covariate = "lesion_size"
    """`dirichlet`: what sites shall differ in. `lesion_size` takes strata from the masks: a tumour's volume,
    or the lesion's share of a photograph. It must be public: who knows the deal learns of it."""
    strata: Annotated[int, Field(ge=2, le=100)] = 4
    """`dirichlet` over `lesion_size`: groups of equally many patients, from the least to the largest."""
    table: Path | None = None
    """Says which case came from where, in place of what the data set says; see `adpfl.data.site_table`."""
    table_column: str | None = None
    """Which column of `table` names the site; None looks for the usual names."""

    @model_validator(mode="after")
    def _consistent(self) -> "PartitionPlan":
        by_source = self.method == "source" or (self.method == "dirichlet" and self.covariate == "source")
        if self.table is not None and not by_source:
            raise ValueError(f"table goes with sources; method is {self.method}, covariate {self.covariate}")
        if self.table_column is not None and self.table is None:
            raise ValueError("table_column goes with table")
        return self
